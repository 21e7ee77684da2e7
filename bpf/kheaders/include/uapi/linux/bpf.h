/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC has included its own copy of this header already; a second one would define all twice. */
