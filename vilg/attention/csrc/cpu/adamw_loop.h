/* adamw.h for a range of elements. */
#pragma once
#include <math.h>

#include "../adamw.h"
#include "convert_loops.h"

namespace VILG_ISA {

inline void adamw(const vilg_adamw_step& step, int64_t count, const float* __restrict gradient,
                  float* __restrict weight, float* __restrict moment1, float* __restrict moment2, int type,
                  uint16_t* rounded) {
  const float size = step.rate * sqrtf(1 - step.beta2_power) / (1 - step.beta1_power);
  const float epsilon = step.epsilon * sqrtf(1 - step.beta2_power), kept = 1 - step.rate * step.decay;
  const float beta1 = step.beta1, beta2 = step.beta2;
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i];
    moment1[i] = beta1 * moment1[i] + (1 - beta1) * g;
    moment2[i] = beta2 * moment2[i] + (1 - beta2) * g * g;
    weight[i] = kept * weight[i] - size * (moment1[i] / (sqrtf(moment2[i]) + epsilon));
  }
  narrow(type, weight, count, rounded);
}

}  // namespace VILG_ISA
