/* The computations of convert.h and adamw.h for a range of elements, as function pointers. */
#pragma once
#include <stdint.h>

#include "../adamw.h"

namespace vilg {

struct ElementKernels {
  void (*widen)(int type, const uint16_t* from, int64_t count, float* to);
  void (*narrow)(int type, const float* from, int64_t count, uint16_t* to);
  void (*add)(int type, const uint16_t* x, const uint16_t* y, int64_t count, uint16_t* out);
  void (*multiply)(int type, const uint16_t* x, const uint16_t* y, int64_t count, uint16_t* out);
  void (*times_vector)(int type, int64_t rows, int64_t width, const uint16_t* matrix, const uint16_t* vector,
                       uint16_t* out, float* scratch);
  void (*vector_times)(int type, int64_t rows, int64_t width, const uint16_t* matrix, const uint16_t* vector,
                       uint16_t* out, float* scratch);
  void (*adamw)(const vilg_adamw_step&, int64_t count, const float* gradient, float* weight, float* moment1,
                float* moment2, int type, uint16_t* rounded);
};

const ElementKernels* element_kernels_avx512();
const ElementKernels* element_kernels_avx2();
const ElementKernels* element_kernels_plain();

}  // namespace vilg
