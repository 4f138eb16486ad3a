# What operators use: needs the control plane only.
set(LW_CLI_OPERATOR_SOURCES operator.c status.c nodes.c sessions.c doctor.c doctor_checks.c)
