/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC's helpers name this header; the programs use none of it. */
