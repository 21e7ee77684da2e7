/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC sizes ring buffers in pages of this; the kernel wants a power of two of real pages. */
#ifndef SLUICE_PAGE_H
#define SLUICE_PAGE_H
#define PAGE_SIZE 4096
#endif
