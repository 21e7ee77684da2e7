/* SPDX-License-Identifier: GPL-2.0-only */
/* <linux/icmp.h> includes this for one length; the real header would bring in the C library's. */
#ifndef SLUICE_IF_H
#define SLUICE_IF_H
#define IFNAMSIZ 16
#endif
