# The three kinds of target. Only kernels may contract a*b+c into one rounding: gcc and clang do it
# in different places, and a trace must be the same on every machine (docs/decisions.md).

# smoe_room(NAME SOURCES... [LINK ...] [KERNELS]): one room of the house, a static library.
function(smoe_room name)
  cmake_parse_arguments(R "KERNELS" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${R_SOURCES})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include
                             ${PROJECT_BINARY_DIR}/include)
  target_link_libraries(${name} PUBLIC ${R_LINK} PRIVATE smoe_options)
  target_compile_definitions(${name} PUBLIC $<$<BOOL:${STABLEMOE_FLOAT64}>:STABLEMOE_FLOAT64=1>)
  if(NOT R_KERNELS)
    target_compile_options(${name} PRIVATE -ffp-contract=off)
  endif()
endfunction()

# smoe_program(NAME SOURCES... [LINK ...]): an installed program.
function(smoe_program name)
  cmake_parse_arguments(P "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${P_SOURCES})
  target_link_libraries(${name} PRIVATE ${P_LINK} smoe_options)
  target_compile_options(${name} PRIVATE -ffp-contract=off -fPIE)
  target_link_options(${name} PRIVATE -pie)
endfunction()

# smoe_test(NAME SOURCES... [LINK ...] [LABEL unit|sim|integration]): a Criterion suite. A unit test
# links the room under test and nothing above it, so a forbidden arrow fails to link.
# Criterion exits 0 when LeakSanitizer reports a leak, hence the expression.
function(smoe_test name)
  cmake_parse_arguments(T "" "LABEL;TIMEOUT" "SOURCES;LINK" ${ARGN})
  if(NOT T_LABEL)
    set(T_LABEL unit)
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 300)
  endif()
  add_executable(test_${name} ${T_SOURCES})
  target_link_libraries(test_${name} PRIVATE ${T_LINK} PkgConfig::CRITERION smoe_options)
  target_compile_options(test_${name} PRIVATE -ffp-contract=off)
  set_target_properties(test_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_test(NAME ${T_LABEL}/${name} COMMAND test_${name} --short-filename -j1)
  set_tests_properties(${T_LABEL}/${name} PROPERTIES LABELS ${T_LABEL} TIMEOUT ${T_TIMEOUT}
    FAIL_REGULAR_EXPRESSION "LeakSanitizer;AddressSanitizer;runtime error:")
endfunction()
