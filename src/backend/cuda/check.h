// SPDX-License-Identifier: Apache-2.0
// CUDA_CHECK: a failed CUDA call becomes an Error that names the statement, the file and the line.
#pragma once

#include <cuda_runtime_api.h>

namespace fluxlora::cuda {

/// Throws Error (internal). A fault of an earlier kernel may show here.
[[noreturn]] void call_failed(cudaError_t status, const char* statement, const char* file,
                              int line);

}  // namespace fluxlora::cuda

#define CUDA_CHECK(statement)                                                           \
  do {                                                                                  \
    const cudaError_t cuda_check_status = (statement);                                  \
    if (cuda_check_status != cudaSuccess)                                               \
      ::fluxlora::cuda::call_failed(cuda_check_status, #statement, __FILE__, __LINE__); \
  } while (false)

/// After a kernel's launch: whether the launch itself was accepted.
#define CUDA_CHECK_LAUNCH() CUDA_CHECK(cudaGetLastError())
