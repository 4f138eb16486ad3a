# Units of proto/rpc and proto/pb; without gRPC there is nothing to test.
if(LW_HAVE_GRPC)
  lw_add_test(NAME test_rpc_grpc SOURCES test_rpc_grpc.c LIBS lw_rpc TIMEOUT 60)
  lw_add_test(NAME test_rpc_grpc_stop SOURCES test_rpc_grpc_stop.c LIBS lw_rpc TIMEOUT 60)
  lw_add_test(NAME test_rpc_grpc_tls SOURCES test_rpc_grpc_tls.c LIBS lw_rpc TIMEOUT 60)
endif()
