/* Block-sparse attention: the C interface of the CPU kernel.

   Queries, keys, values, outputs and their gradients are [batch, length, heads, head_size] of one type; they are
   computed with in float32, and results are rounded once. `*_row` is the distance in elements between two positions, so that a slice of a wider array can be read in place. The heads of a
   position are contiguous. lse is float32 [batch, heads, length]: the natural logarithm of the sum of the exponentials of the
   scaled scores of each query. Nothing is allocated: the caller provides `workspace`, whose size the functions
   `*_workspace` return. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "element.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int64_t batch, length, heads, head_size;
  float scale; /* factor of the scores, usually head_size^-0.5 */
  int type;    /* of the elements: VILG_FLOAT32, VILG_FLOAT16 or VILG_BFLOAT16 */
} vilg_shape;

/* The return values. */
enum {
  VILG_OK = 0,
  VILG_BAD_LAYOUT = 1,    /* the layout is damaged or of another version */
  VILG_OTHER_LENGTH = 2,  /* the layout is for a different sequence length */
  VILG_BAD_HEAD_SIZE = 3, /* not one of 32, 64, 80, 96, 128 */
  VILG_BAD_TILE = 4       /* the tiles are not 32 x 32, the only size of the CPU kernel */
};
const char* vilg_attention_error(int code);

/* The workspace size, in floats, for `threads` threads; 0 if the layout is invalid. `packed` is the result of
   Tiles.packed() (vilg/attention/tiles.py), with `size` elements. */
int64_t vilg_attention_forward_workspace(const vilg_shape*, const int32_t* packed, int64_t size, int threads);
int64_t vilg_attention_backward_workspace(const vilg_shape*, const int32_t* packed, int64_t size, int threads);

int vilg_attention_forward(const vilg_shape*, const int32_t* packed, int64_t size, const void* q, int64_t q_row,
                           const void* k, int64_t k_row, const void* v, int64_t v_row, void* out, int64_t out_row,
                           float* lse, float* workspace, int threads);

/* Gradients of q, k and v, given grad_out, the gradient of out. */
int vilg_attention_backward(const vilg_shape*, const int32_t* packed, int64_t size, const void* q, int64_t q_row,
                            const void* k, int64_t k_row, const void* v, int64_t v_row, const void* out,
                            int64_t out_row, const float* lse, const void* grad_out, int64_t grad_out_row,
                            void* grad_q, int64_t grad_q_row, void* grad_k, int64_t grad_k_row, void* grad_v,
                            int64_t grad_v_row, float* workspace, int threads);

/* "avx512", "avx2" or "plain": the widest instruction set that this processor supports, or the one that the
   environment variable VILG_ATTENTION_ISA names, if it is supported. */
const char* vilg_attention_isa(void);

#ifdef __cplusplus
}
#endif
