# The control plane in one process, for the simulator and for client tests.
if(TARGET lwd_catalogue AND TARGET lwc_control AND NOT TARGET lw_control_sim)
  add_library(lw_control_sim STATIC ${CMAKE_CURRENT_LIST_DIR}/control_sim.c)
  target_link_libraries(lw_control_sim PUBLIC lwc_control lwd_catalogue lw_base)
  target_include_directories(lw_control_sim PUBLIC ${PROJECT_SOURCE_DIR}/tests)
endif()
