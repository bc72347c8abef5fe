# Everything comes from Debian through pkg-config; scripts/deps.sh installs it.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(UV REQUIRED IMPORTED_TARGET libuv>=1.44)
pkg_check_modules(URING REQUIRED IMPORTED_TARGET liburing>=2.3)
pkg_check_modules(PROTOBUFC REQUIRED IMPORTED_TARGET libprotobuf-c>=1.4)
pkg_check_modules(CJSON REQUIRED IMPORTED_TARGET libcjson>=1.7.15)
pkg_check_modules(INIH REQUIRED IMPORTED_TARGET inih)
pkg_check_modules(OPENSSL REQUIRED IMPORTED_TARGET openssl>=3.0)
pkg_check_modules(SQLITE REQUIRED IMPORTED_TARGET sqlite3>=3.34)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(POWERCAP REQUIRED IMPORTED_TARGET powercap>=0.6)
if(BUILD_TESTING)
  pkg_check_modules(CRITERION IMPORTED_TARGET criterion>=2.4)
  if(NOT CRITERION_FOUND)
    message(STATUS "Criterion is not installed: tests are not built")
  endif()
endif()
find_program(PROTOC_C protoc-c REQUIRED)

# OpenBLAS, its serial build: its own pthreads beside our compute threads collapse to a fifth of the
# speed, and reference BLAS is 60 times slower, so a generic libblas is not accepted.
find_path(OPENBLAS_INCLUDE_DIR cblas.h REQUIRED
  HINTS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-serial
  PATH_SUFFIXES openblas-serial openblas NO_CACHE)
find_library(OPENBLAS_LIBRARY openblas REQUIRED
  HINTS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-serial NO_CACHE)
add_library(smoe_blas INTERFACE)
target_include_directories(smoe_blas SYSTEM INTERFACE ${OPENBLAS_INCLUDE_DIR})
target_link_libraries(smoe_blas INTERFACE ${OPENBLAS_LIBRARY})

# Two libraries without a pkg-config file. libcpupower is GPL-2.0-only: client/freqd alone links it.
find_path(CPUPOWER_INCLUDE_DIR cpufreq.h REQUIRED NO_CACHE)
find_library(CPUPOWER_LIBRARY cpupower REQUIRED NO_CACHE)
add_library(smoe_cpupower INTERFACE)
target_include_directories(smoe_cpupower SYSTEM INTERFACE ${CPUPOWER_INCLUDE_DIR})
target_link_libraries(smoe_cpupower INTERFACE ${CPUPOWER_LIBRARY})
find_path(SENSORS_INCLUDE_DIR sensors/sensors.h REQUIRED NO_CACHE)
find_library(SENSORS_LIBRARY sensors REQUIRED NO_CACHE)
add_library(smoe_sensors INTERFACE)
target_include_directories(smoe_sensors SYSTEM INTERFACE ${SENSORS_INCLUDE_DIR})
target_link_libraries(smoe_sensors INTERFACE ${SENSORS_LIBRARY})
