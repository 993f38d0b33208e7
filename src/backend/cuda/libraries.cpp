// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/libraries.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include <cublasLt.h>
#include <cudnn.h>
#include <dlfcn.h>
#include <glob.h>

#include "base/error.h"
#include "base/log.h"

// Where the build found the headers; colons between folders. Set by cmake/cuda.cmake.
#ifndef FLUXLORA_CUDA_LIBRARY_FOLDERS
#define FLUXLORA_CUDA_LIBRARY_FOLDERS ""
#endif

namespace fluxlora::cuda {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (size_t first = 0; first <= text.size();) {
    const size_t end = std::min(text.find(at, first), text.size());
    if (end > first) parts.push_back(text.substr(first, end - first));
    first = end + 1;
  }
  return parts;
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value ? value : "";
}

/// The folders of libraries below a folder that a person names: itself, or wheels under it.
void add_root(std::vector<std::string>& folders, const std::string& root) {
  for (const char* below : {"", "/lib", "/nvidia/cu13/lib", "/nvidia/cudnn/lib"})
    folders.push_back(root + below);
}

/// Where the Python packages of an installation in `prefix` lie.
void add_python(std::vector<std::string>& folders, const std::string& prefix) {
  for (const char* packages : {"/lib/python3*/site-packages", "/lib/python3*/dist-packages"}) {
    glob_t found{};
    if (glob((prefix + packages).c_str(), 0, nullptr, &found) == 0)
      for (size_t i = 0; i < found.gl_pathc; ++i) {
        folders.push_back(std::string(found.gl_pathv[i]) + "/nvidia/cu13/lib");
        folders.push_back(std::string(found.gl_pathv[i]) + "/nvidia/cudnn/lib");
      }
    globfree(&found);
  }
}

/// In the order in which they are tried. An empty name: where the system looks.
const std::vector<std::string>& library_folders() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> folders;
    for (const std::string& root : split(environment("FLUXLORA_CUDA_LIBS"), ':'))
      add_root(folders, root);
    for (const std::string& folder : split(FLUXLORA_CUDA_LIBRARY_FOLDERS, ':'))
      folders.push_back(folder);
    std::error_code ignored;
    const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
    if (!program.empty()) folders.push_back(program.parent_path() / "cuda");
    folders.emplace_back();
    folders.emplace_back("/usr/local/cuda/lib64");
    for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"})
      if (const std::string prefix = environment(variable); !prefix.empty())
        add_python(folders, prefix);
    for (const std::string& folder : split(environment("PATH"), ':')) {
      const fs::path python = fs::path(folder) / "python3";
      if (!fs::exists(python, ignored)) continue;
      add_python(folders, fs::path(folder).parent_path());
      add_python(folders, fs::canonical(python, ignored).parent_path().parent_path());
    }
    if (const std::string home = environment("HOME"); !home.empty())
      add_python(folders, home + "/.local");
    add_python(folders, "/usr/local");
    return folders;
  }();
  return all;
}

struct Library {
  const char* name;
  const char* people;  // what people call it
  void* handle = nullptr;
  std::string folder = {};
};

Library cublaslt{"libcublasLt.so.13", "cuBLAS"};
Library cudnn{"libcudnn.so.9", "cuDNN"};
Library nvrtc{"libnvrtc.so.13", "NVRTC"};

/// Whether it is open now. Remembers what the loader said of a file that is there but does not
/// load.
bool try_open(Library& library, std::string& complaint) {
  if (library.handle) return true;
  for (const std::string& folder : library_folders()) {
    const std::string path = folder.empty() ? library.name : folder + "/" + library.name;
    std::error_code ignored;
    if (!folder.empty() && !fs::exists(path, ignored)) continue;
    library.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (library.handle) {
      library.folder = folder.empty() ? "the system's folders" : folder;
      log_debug(std::string(library.people) + ": " + path);
      return true;
    }
    if (!folder.empty()) complaint = dlerror();
  }
  return false;
}

void open(Library& library) {
  std::string complaint;
  if (try_open(library, complaint)) return;
  throw environment_error(
      library.people, complaint.empty() ? std::string(library.name) + " was not found" : complaint,
      "install it with pip install nvidia-cublas==13.1.0.3 nvidia-cudnn-cu13==9.19.0.56 "
      "nvidia-cuda-nvrtc==13.0.88, or set FLUXLORA_CUDA_LIBS to its folder, or use --device cpu");
}

/// The function of this name in the library. Not found: the library is older than the headers.
template <typename F>
F* function(Library& library, const char* name) {
  open(library);
  void* const address = dlsym(library.handle, name);
  if (!address)
    throw environment_error(library.people, std::string("has no ") + name + "; it is too old",
                            "install the version of scripts/cuda-wheels.txt");
  return reinterpret_cast<F*>(address);
}

}  // namespace

void open_cublaslt() {
  open(cublaslt);
}

void open_cudnn() {
  // cuDNN asks for these by name, and then finds the ones that are open.
  std::string ignored;
  try_open(nvrtc, ignored);
  open(cublaslt);
  open(cudnn);
}

std::string opened_libraries() {
  std::string text;
  if (cublaslt.handle) {
    const size_t v = cublasLtGetVersion();
    text = "cuBLAS " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." +
           std::to_string(v % 100) + " in " + cublaslt.folder;
  }
  if (cudnn.handle) {
    const size_t v = cudnnGetVersion();
    text += std::string(text.empty() ? "" : ", ") + "cuDNN " + std::to_string(v / 10000) + "." +
            std::to_string(v / 100 % 100) + "." + std::to_string(v % 100) + " in " + cudnn.folder;
  }
  return text;
}

}  // namespace fluxlora::cuda

// ---- the libraries' functions, forwarded
// ----------------------------------------------------------
using fluxlora::cuda::cublaslt;
using fluxlora::cuda::cudnn;

#define FORWARD(library, result, name, parameters, arguments)                        \
  extern "C" result name parameters {                                                \
    static auto* const f = fluxlora::cuda::function<decltype(name)>(library, #name); \
    return f arguments;                                                              \
  }
#define BLAS(name, parameters, arguments) \
  FORWARD(cublaslt, cublasStatus_t, name, parameters, arguments)
#define DNN(name, parameters, arguments) FORWARD(cudnn, cudnnStatus_t, name, parameters, arguments)

FORWARD(cublaslt, size_t, cublasLtGetVersion, (), ())
FORWARD(cublaslt, const char*, cublasLtGetStatusString, (cublasStatus_t s), (s))
BLAS(cublasLtCreate, (cublasLtHandle_t * h), (h))
BLAS(cublasLtDestroy, (cublasLtHandle_t h), (h))
BLAS(cublasLtMatmulDescCreate,
     (cublasLtMatmulDesc_t * d, cublasComputeType_t compute, cudaDataType_t scale),
     (d, compute, scale))
BLAS(cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t d), (d))
BLAS(cublasLtMatmulDescSetAttribute,
     (cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void* p, size_t n),
     (d, a, p, n))
BLAS(cublasLtMatrixLayoutCreate,
     (cublasLtMatrixLayout_t * l, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld),
     (l, type, rows, columns, ld))
BLAS(cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t l), (l))
BLAS(cublasLtMatrixLayoutSetAttribute,
     (cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t a, const void* p, size_t n),
     (l, a, p, n))
BLAS(cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * p), (p))
BLAS(cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t p), (p))
BLAS(cublasLtMatmulPreferenceSetAttribute,
     (cublasLtMatmulPreference_t d, cublasLtMatmulPreferenceAttributes_t a, const void* p,
      size_t n),
     (d, a, p, n))
BLAS(cublasLtMatmulAlgoGetHeuristic,
     (cublasLtHandle_t h, cublasLtMatmulDesc_t op, cublasLtMatrixLayout_t a,
      cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
      cublasLtMatmulPreference_t p, int asked, cublasLtMatmulHeuristicResult_t* results,
      int* found),
     (h, op, a, b, c, d, p, asked, results, found))
BLAS(cublasLtMatmul,
     (cublasLtHandle_t h, cublasLtMatmulDesc_t op, const void* alpha, const void* a,
      cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
      const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
      cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace,
      size_t bytes, cudaStream_t stream),
     (h, op, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algo, workspace,
      bytes, stream))

FORWARD(cudnn, size_t, cudnnGetVersion, (), ())
FORWARD(cudnn, const char*, cudnnGetErrorString, (cudnnStatus_t s), (s))
FORWARD(cudnn, void, cudnnGetLastErrorString, (char* text, size_t n), (text, n))
DNN(cudnnCreate, (cudnnHandle_t * h), (h))
DNN(cudnnDestroy, (cudnnHandle_t h), (h))
DNN(cudnnSetStream, (cudnnHandle_t h, cudaStream_t s), (h, s))
DNN(cudnnGetStream, (cudnnHandle_t h, cudaStream_t* s), (h, s))
DNN(cudnnBackendCreateDescriptor, (cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* d),
    (type, d))
DNN(cudnnBackendDestroyDescriptor, (cudnnBackendDescriptor_t d), (d))
DNN(cudnnBackendFinalize, (cudnnBackendDescriptor_t d), (d))
DNN(cudnnBackendSetAttribute,
    (cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
     int64_t n, const void* p),
    (d, name, type, n, p))
DNN(cudnnBackendGetAttribute,
    (const cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
     cudnnBackendAttributeType_t type, int64_t asked, int64_t* n, void* p),
    (d, name, type, asked, n, p))
DNN(cudnnBackendExecute,
    (cudnnHandle_t h, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t variants),
    (h, plan, variants))
