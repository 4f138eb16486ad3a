lw_add_test(NAME test_lwd_plan SOURCES test_plan.c LIBS lwd_move)
lw_add_test(NAME test_lwd_hold SOURCES test_hold.c shard_place.c segment_make.c LIBS lwd_shard)
lw_add_test(NAME test_lwd_move_link SOURCES test_move_link.c LIBS lwd_move)
