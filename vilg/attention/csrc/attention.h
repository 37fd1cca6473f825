/* Block-sparse attention: the C interface of the CPU kernel.

   All tensors are float32. Queries, keys, values and outputs are [batch, length, heads, head_size]; `*_row` is the
   distance in floats between two positions, so that a slice of a wider array can be read as it lies. Heads of a
   position lie behind each other. lse is [batch, heads, length], the natural logarithm of each query's sum of
   exponentials. Nothing is allocated: the caller brings `workspace` of the size that the query asks for. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int64_t batch, length, heads, head_size;
  float scale; /* of the scores, usually head_size^-0.5 */
} vilg_shape;

/* 0, or one of these. */
enum {
  VILG_OK = 0,
  VILG_BAD_LAYOUT = 1,    /* not made by this version, or damaged */
  VILG_OTHER_LENGTH = 2,  /* the layout describes another number of positions */
  VILG_BAD_HEAD_SIZE = 3, /* none of 32, 64, 80, 96, 128 */
  VILG_BAD_TILE = 4       /* the CPU kernel computes tiles of 32 x 32 */
};
const char* vilg_attention_error(int code);

/* Floats of workspace for `threads` threads; packed is what Tiles.packed() wrote, `size` numbers long. */
int64_t vilg_attention_forward_workspace(const vilg_shape*, const int32_t* packed, int64_t size, int threads);
int64_t vilg_attention_backward_workspace(const vilg_shape*, const int32_t* packed, int64_t size, int threads);

int vilg_attention_forward(const vilg_shape*, const int32_t* packed, int64_t size, const float* q, int64_t q_row,
                           const float* k, int64_t k_row, const float* v, int64_t v_row, float* out, int64_t out_row,
                           float* lse, float* workspace, int threads);

/* Gradients of the sum of out * grad_out. */
int vilg_attention_backward(const vilg_shape*, const int32_t* packed, int64_t size, const float* q, int64_t q_row,
                            const float* k, int64_t k_row, const float* v, int64_t v_row, const float* out,
                            int64_t out_row, const float* lse, const float* grad_out, int64_t grad_out_row,
                            float* grad_q, int64_t grad_q_row, float* grad_k, int64_t grad_k_row, float* grad_v,
                            int64_t grad_v_row, float* workspace, int threads);

/* "avx512", "avx2" or "plain": what this processor is given, or what VILG_ATTENTION_ISA asks for. */
const char* vilg_attention_isa(void);

#ifdef __cplusplus
}
#endif
