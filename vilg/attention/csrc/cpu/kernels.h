/* The computation of one head as function pointers, so that instruction set and head size are chosen once per
   call. */
#pragma once
#include <stdint.h>

#include "../element.h"
#include "../layout.h"

namespace vilg {

struct HeadIn {
  const void *q, *k, *v, *out, *grad_out; /* position 0 of the head; out and grad_out only in the backward pass */
  int64_t q_row, k_row, v_row, out_row, grad_out_row;
  const float* lse; /* only in the backward pass */
  float scale;
  int type; /* of the elements, also of the outputs: element.h */
};
struct HeadOut {
  void *out, *grad_q, *grad_k, *grad_v;
  int64_t out_row, grad_q_row, grad_k_row, grad_v_row;
  float* lse; /* only in the forward pass */
};

/* Element `index` of an array of elements of `type`. */
inline const void* element(const void* array, int64_t index, int type) {
  return static_cast<const char*>(array) + index * (type == VILG_FLOAT32 ? 4 : 2);
}
inline void* element(void* array, int64_t index, int type) {
  return static_cast<char*>(array) + index * (type == VILG_FLOAT32 ? 4 : 2);
}

/* Computes the blocks [first, last) of one head. Each thread has its own workspace. */
using Work = void (*)(const Layout&, const HeadIn&, const HeadOut&, int first, int last, float* workspace);

struct Kernels {
  Work forward;           /* output and lse of query blocks */
  Work backward;          /* all gradients of the whole head; first and last are ignored */
  Work backward_queries;  /* dQ of query blocks */
  Work backward_keys;     /* dK and dV of key blocks */
};

/* nullptr if there is no kernel for this head size. */
const Kernels* kernels_avx512(int64_t head_size);
const Kernels* kernels_avx2(int64_t head_size);
const Kernels* kernels_plain(int64_t head_size);

}  // namespace vilg
