// SPDX-License-Identifier: Apache-2.0
// cuBLASLt and cuDNN are opened when a GPU is used, not when the program starts: the same program
// runs where they are missing, and says then what to do. Their functions are called by their own
// names; libraries.cpp forwards them.
#pragma once

#include <string>

namespace fluxlora::cuda {

/// Opens libcublasLt.so.13. Looked for in FLUXLORA_CUDA_LIBS (folders, or the root of Python
/// packages, separated by colons), where the build found the headers, beside the program, where the
/// system looks, in Python's packages. Throws Error (environment) that names what it tried.
void open_cublaslt();

/// Opens libcudnn.so.9, and before it libnvrtc.so.13 which it compiles kernels with.
void open_cudnn();

/// "cuBLAS 13.1.0 in FOLDER" and the like, for `doctor` and the log; empty before they are open.
std::string opened_libraries();

}  // namespace fluxlora::cuda
