/* The elements of Paddle's tensors, as the kernels take them. */
#pragma once
#include "../element.h"
#include "paddle/phi/api/ext/op_meta_info.h"

namespace vilg {

/* The type of the elements of x: element.h. */
inline int type_of(const paddle::Tensor& x) {
  switch (x.dtype()) {
    case phi::DataType::FLOAT32: return VILG_FLOAT32;
    case phi::DataType::FLOAT16: return VILG_FLOAT16;
    case phi::DataType::BFLOAT16: return VILG_BFLOAT16;
    default: PD_THROW("vilg attention: the inputs must be float32, float16 or bfloat16");
  }
}

/* The address of element `index` of x. */
inline const void* at(const paddle::Tensor& x, int64_t index) {
  return static_cast<const char*>(x.data()) + index * phi::SizeOf(x.dtype());
}
inline void* at(paddle::Tensor* x, int64_t index) {
  return static_cast<char*>(x->data()) + index * phi::SizeOf(x->dtype());
}

}  // namespace vilg
