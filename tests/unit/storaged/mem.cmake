lw_add_test(NAME test_lwd_extent SOURCES test_extent.c LIBS lwd_mem)
lw_add_test(NAME test_lwd_arena SOURCES test_arena.c LIBS lwd_mem)
lw_add_test(NAME test_lwd_budget SOURCES test_budget.c LIBS lwd_mem)
