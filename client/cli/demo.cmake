# Needs the model runner: included where BLAS was found.
set(LW_CLI_DEMO_SOURCES demo.c quality.c engine.c words.c)
