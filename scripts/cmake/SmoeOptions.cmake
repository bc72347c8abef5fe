# Language level, warnings, hardening and the build-wide switches.

option(STABLEMOE_WERROR "Treat warnings as errors" OFF)
option(STABLEMOE_FLOAT64 "Compute experts and models in float64 (test builds: bounds become exact)" OFF)
option(STABLEMOE_FUZZ "Build libFuzzer targets (clang only)" OFF)
set(STABLEMOE_SANITIZE "" CACHE STRING "Sanitizers, comma separated: address,undefined | thread")

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_LINK_DEPENDS_NO_SHARED ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()

add_library(smoe_options INTERFACE)
target_compile_definitions(smoe_options INTERFACE _GNU_SOURCE)
target_compile_options(smoe_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wdouble-promotion -Wcast-qual
  -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla -Wformat=2 -Wnull-dereference
  -Wswitch-enum -Wwrite-strings -Wimplicit-fallthrough
  -fno-common -fno-math-errno -fstack-protector-strong)
if(STABLEMOE_WERROR)
  target_compile_options(smoe_options INTERFACE -Werror)
endif()
if(STABLEMOE_FLOAT64)
  target_compile_definitions(smoe_options INTERFACE STABLEMOE_FLOAT64=1)
endif()
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  target_compile_options(smoe_options INTERFACE -fstack-clash-protection)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(smoe_options INTERFACE -fcf-protection)
endif()

if(STABLEMOE_SANITIZE)
  target_compile_options(smoe_options INTERFACE -fsanitize=${STABLEMOE_SANITIZE}
    -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  target_link_options(smoe_options INTERFACE -fsanitize=${STABLEMOE_SANITIZE})
elseif(CMAKE_BUILD_TYPE MATCHES "Rel")
  target_compile_options(smoe_options INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
endif()
target_link_options(smoe_options INTERFACE -Wl,-z,relro,-z,now)
if(STABLEMOE_FUZZ)
  target_compile_options(smoe_options INTERFACE -fsanitize=fuzzer-no-link)
endif()
