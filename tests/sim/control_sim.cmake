# The control plane in one process; client tests link it too, so it comes before what the simulator needs.
if(TARGET lwd_catalogue AND TARGET lwc_control)
  add_library(lw_control_sim STATIC ${CMAKE_CURRENT_LIST_DIR}/control_sim.c)
  target_link_libraries(lw_control_sim PUBLIC lwc_control lwd_catalogue lw_base)
  target_include_directories(lw_control_sim PUBLIC ${PROJECT_SOURCE_DIR}/tests)
endif()
