/* The steps of an update in fp32, between the same matrix products. */
#define IN_FP32
#include "pictures.c"
#include "steps.c"
