# The CUDA backend: compiler, headers, architectures. Nothing of cuBLAS, cuDNN or the driver is linked: the program opens
# them when a GPU is asked for (src/backend/cuda/libraries.h), so that the same program runs on a machine without them.
#
# Looked for in this order: FLUXLORA_CUDA_ROOT (the toolkit), FLUXLORA_CUDA_LIBS (cuBLAS, cuDNN), .deps/cuda
# (scripts/setup-cuda.sh), the system, Python's site-packages.
set(FLUXLORA_CUDA_ROOT "$ENV{FLUXLORA_CUDA_ROOT}" CACHE PATH "CUDA toolkit: the folder of bin/nvcc")
set(FLUXLORA_CUDA_LIBS "$ENV{FLUXLORA_CUDA_LIBS}" CACHE STRING
    "Folders with cuBLAS, cuDNN and the cuDNN frontend, separated by colons")
set(wheels ${CMAKE_SOURCE_DIR}/.deps/cuda)

# ---- where things may lie -----------------------------------------------------------------------
string(REPLACE ":" ";" cuda_roots "${FLUXLORA_CUDA_LIBS}")
list(APPEND cuda_roots ${wheels} ${FLUXLORA_CUDA_ROOT} /usr/local/cuda)
find_program(FLUXLORA_PYTHON NAMES python3)
if(FLUXLORA_PYTHON)
  execute_process(COMMAND ${FLUXLORA_PYTHON} -c "import sys; print(';'.join(p for p in sys.path if p.endswith('packages')))"
                  OUTPUT_VARIABLE site_packages OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  list(APPEND cuda_roots ${site_packages})
endif()
# Below a root of wheels each library has a folder of its own; the frontend lies at the root itself.
set(cuda_prefixes)
foreach(root ${cuda_roots})
  list(APPEND cuda_prefixes ${root} ${root}/nvidia/cu13 ${root}/nvidia/cudnn)
endforeach()

# ---- compiler -----------------------------------------------------------------------------------
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(FLUXLORA_NVCC nvcc HINTS ${FLUXLORA_CUDA_ROOT}/bin ${wheels}/nvidia/cu13/bin
               PATHS /usr/local/cuda/bin)
  if(NOT FLUXLORA_NVCC)
    message(FATAL_ERROR "No nvcc found: scripts/setup-cuda.sh fetches one, or set FLUXLORA_CUDA_ROOT")
  endif()
  set(CMAKE_CUDA_COMPILER ${FLUXLORA_NVCC})
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90a)
endif()
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
enable_language(CUDA)
# CMake 3.25 does not know that nvcc has C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
  message(FATAL_ERROR "CUDA ${CMAKE_CUDA_COMPILER_VERSION} is too old: 13.0 is needed; scripts/setup-cuda.sh fetches it")
endif()

# ---- headers ------------------------------------------------------------------------------------
function(find_cuda_header variable header)
  find_path(${variable} ${header} HINTS ${cuda_prefixes} PATH_SUFFIXES include)
  if(NOT ${variable})
    message(FATAL_ERROR "${header} not found: scripts/setup-cuda.sh fetches it, or name its folder in FLUXLORA_CUDA_LIBS")
  endif()
endfunction()
find_cuda_header(FLUXLORA_CUBLAS_INCLUDE cublasLt.h)
find_cuda_header(FLUXLORA_CUDNN_INCLUDE cudnn.h)
find_cuda_header(FLUXLORA_CUDNN_FRONTEND_INCLUDE cudnn_frontend.h)

# cuBLAS's wheel brings parts of another toolkit: the compiler's own folder comes first.
add_library(fluxlora_cuda_headers INTERFACE)
target_include_directories(fluxlora_cuda_headers SYSTEM INTERFACE
  ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} ${FLUXLORA_CUBLAS_INCLUDE} ${FLUXLORA_CUDNN_INCLUDE}
  ${FLUXLORA_CUDNN_FRONTEND_INCLUDE})
# Where this build found the libraries' headers, a program that is not moved finds the libraries.
get_filename_component(cublas_prefix ${FLUXLORA_CUBLAS_INCLUDE} DIRECTORY)
get_filename_component(cudnn_prefix ${FLUXLORA_CUDNN_INCLUDE} DIRECTORY)
set(FLUXLORA_CUDA_LIBRARY_FOLDERS "${cublas_prefix}/lib:${cudnn_prefix}/lib")

message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}; cuBLAS ${FLUXLORA_CUBLAS_INCLUDE}; "
               "cuDNN ${FLUXLORA_CUDNN_INCLUDE}; frontend ${FLUXLORA_CUDNN_FRONTEND_INCLUDE}")

# The room backend/cuda. Warnings: the host compiler's, and nvcc's own.
function(cuda_room)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backend/cuda/*.cpp ${CMAKE_SOURCE_DIR}/src/backend/cuda/*.cu)
  add_library(fluxlora_backend_cuda STATIC ${sources})
  target_link_libraries(fluxlora_backend_cuda PUBLIC fluxlora_ops PRIVATE fluxlora_cuda_headers ${CMAKE_DL_LIBS})
  target_compile_options(fluxlora_backend_cuda PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra;--expt-relaxed-constexpr;--extended-lambda>"
    "$<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${FLUXLORA_WERROR}>>:-Xcompiler=-Werror;-Werror=all-warnings>")
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/backend/cuda/libraries.cpp PROPERTIES
    COMPILE_DEFINITIONS FLUXLORA_CUDA_LIBRARY_FOLDERS="${FLUXLORA_CUDA_LIBRARY_FOLDERS}")
  # A minute and 1.6 GB as it is; optimising what only builds plans gains nothing.
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/backend/cuda/cudnn_graphs.cpp PROPERTIES COMPILE_OPTIONS -O1)
endfunction()
