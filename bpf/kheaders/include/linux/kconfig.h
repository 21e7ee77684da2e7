/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC includes this before everything; it checks for this one option. */
#ifndef SLUICE_KCONFIG_H
#define SLUICE_KCONFIG_H
#define CONFIG_BPF_SYSCALL 1
#endif
