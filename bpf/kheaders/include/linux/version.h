/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC records LINUX_VERSION_CODE in every program; kernels since 5.0 do not compare it. */
#ifndef SLUICE_VERSION_H
#define SLUICE_VERSION_H
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
#endif
