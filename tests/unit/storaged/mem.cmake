lw_add_test(NAME test_extent SOURCES test_extent.c LIBS lwd_mem)
lw_add_test(NAME test_arena SOURCES test_arena.c LIBS lwd_mem)
lw_add_test(NAME test_budget SOURCES test_budget.c LIBS lwd_mem)
