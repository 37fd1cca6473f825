/* One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2): the C interface of the CPU kernel. */
#pragma once
#include <stdint.h>

#include "element.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  float beta1, beta2, epsilon;
  float beta1_power, beta2_power; /* beta^t in step t */
  float rate;                     /* learning rate */
  float decay;                    /* weight decay; 0 for none */
} vilg_adamw_step;

/* Updates `count` weights and their moments, all float32, and writes the weights rounded to `type` to `rounded`. */
void vilg_adamw(const vilg_adamw_step*, int64_t count, const float* gradient, float* weight, float* moment1,
                float* moment2, int type, uint16_t* rounded, int threads);

#ifdef __cplusplus
}
#endif
