/* What clang ships as <stdbool.h>; the PyPI package of libclang has no headers. */
#pragma once
#define bool _Bool
#define true 1
#define false 0
