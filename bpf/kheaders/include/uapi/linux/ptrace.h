/* SPDX-License-Identifier: GPL-2.0-only */
/* The user-space header of the same name; _next, since this folder is itself on the search path. */
#include_next <linux/ptrace.h>
