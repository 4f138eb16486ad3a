# Against a real etcd on loopback; skips where there is no etcd command.
if(TARGET lwd_etcd)
  lw_add_test(NAME test_etcd SOURCES test_etcd.c etcd_process.c LIBS lwd_etcd TIMEOUT 180)
endif()
