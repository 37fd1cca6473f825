/* One head's work as function pointers, so that the instruction set and the head size are chosen once a call. */
#pragma once
#include <stdint.h>

#include "../layout.h"

namespace vilg {

struct HeadIn {
  const float *q, *k, *v, *out, *grad_out; /* at position 0 of the head; the last two only for backward */
  int64_t q_row, k_row, v_row, out_row, grad_out_row;
  const float* lse;
  float scale;
};
struct HeadOut {
  float *out, *grad_q, *grad_k, *grad_v;
  int64_t out_row, grad_q_row, grad_k_row, grad_v_row;
  float* lse;
};

/* Blocks [first, last) of one head. workspace is the thread's own. */
using Work = void (*)(const Layout&, const HeadIn&, const HeadOut&, int first, int last, float* workspace);

struct Kernels {
  Work forward;           /* blocks of queries */
  Work backward;          /* the whole head, whatever first and last are */
  Work backward_queries;  /* dQ of blocks of queries */
  Work backward_keys;     /* dK and dV of blocks of keys */
};

/* nullptr for a head size that there is no kernel for. */
const Kernels* kernels_avx512(int64_t head_size);
const Kernels* kernels_avx2(int64_t head_size);
const Kernels* kernels_plain(int64_t head_size);

}  // namespace vilg
