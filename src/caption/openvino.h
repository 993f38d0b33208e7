// SPDX-License-Identifier: Apache-2.0
// Inside this room only: the functions of OpenVINO's C interface that we call, found at run time.
// Its headers are not needed to build: the objects are opaque, and so few functions are used that
// their types stand here. Source: openvino/c/*.h of the wheel 2026.4 (Apache-2.0), "OpenVINO
// Runtime C API".
#pragma once

#include <cstddef>
#include <cstdint>

namespace fluxlora::caption {

struct OpenVino {
  struct Shape {
    int64_t rank;
    int64_t* dims;
  };
  struct Dimension {
    int64_t min, max;  ///< equal where the size is fixed; a rank of any: max is -1
  };
  struct PartialShape {
    Dimension rank;
    Dimension* dims;
  };
  using Handle = void*;
  using Status = int;  ///< 0 is success

  // ov_element_type_e; open_openvino() checks that the library counts alike.
  static constexpr int kF32 = 4, kI64 = 10;

  Status (*core_create)(Handle*);
  Status (*core_compile_model_from_file)(Handle, const char*, const char*, size_t, Handle*, ...);
  Status (*compiled_model_inputs_size)(Handle, size_t*);
  Status (*compiled_model_outputs_size)(Handle, size_t*);
  Status (*compiled_model_input_by_name)(Handle, const char*, Handle*);
  Status (*compiled_model_input_by_index)(Handle, size_t, Handle*);
  Status (*compiled_model_output_by_index)(Handle, size_t, Handle*);
  Status (*compiled_model_create_infer_request)(Handle, Handle*);
  void (*compiled_model_free)(Handle);
  Status (*port_get_any_name)(Handle, char**);
  Status (*port_get_partial_shape)(Handle, PartialShape*);
  void (*partial_shape_free)(PartialShape*);
  void (*output_const_port_free)(Handle);
  Status (*infer_request_set_tensor)(Handle, const char*, Handle);
  Status (*infer_request_infer)(Handle);
  Status (*infer_request_get_tensor)(Handle, const char*, Handle*);
  void (*infer_request_free)(Handle);
  Status (*tensor_create)(int, Shape, Handle*);
  Status (*tensor_get_shape)(Handle, Shape*);
  Status (*tensor_get_element_type)(Handle, int*);
  Status (*tensor_get_byte_size)(Handle, size_t*);
  Status (*tensor_data)(Handle, void**);
  void (*tensor_free)(Handle);
  Status (*shape_free)(Shape*);
  void (*free)(const char*);
  const char* (*get_last_err_msg)();

  Handle core;
};

/// The library, loaded at the first call and kept. Throws Error (environment) with what to install.
const OpenVino& open_openvino();

}  // namespace fluxlora::caption
