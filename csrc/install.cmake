# Install the header, the licence, both libraries, a pkg-config file and a CMake package (decoding::decoding is the static library,
# decoding::decoding_shared the shared one). The installed tree can be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set_target_properties(decoding_shared PROPERTIES EXCLUDE_FROM_ALL OFF)
install(TARGETS decoding decoding_shared EXPORT decoding INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES decoding.h TYPE INCLUDE)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/decoding)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/decoding)
install(EXPORT decoding FILE decoding-config.cmake NAMESPACE decoding:: DESTINATION ${package_dir})
write_basic_package_version_file(decoding-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/decoding-config-version.cmake DESTINATION ${package_dir})

# An absolute CMAKE_INSTALL_LIBDIR replaces the prefix, as it does in install().
file(RELATIVE_PATH prefix_from_pc ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
cmake_path(APPEND pc_libdir "\${prefix}" ${CMAKE_INSTALL_LIBDIR})
cmake_path(APPEND pc_includedir "\${prefix}" ${CMAKE_INSTALL_INCLUDEDIR})
configure_file(decoding.pc.in decoding.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/decoding.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
