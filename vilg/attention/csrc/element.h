/* The types of the elements of tensors. */
#pragma once

/* VILG_FLOAT16 has sign, 5 bits of exponent and 10 of fraction (IEEE 754), VILG_BFLOAT16 sign, 8 and 7. */
enum { VILG_FLOAT32 = 0, VILG_FLOAT16 = 1, VILG_BFLOAT16 = 2 };
