/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Early handoff: a connection that policy hands off goes to its tenant's proxy from its SYN on.
 * The proxy may speak for a client as long as that client has lately spoken to it.
 */
#ifndef SLUICE_HANDOFF_H
#define SLUICE_HANDOFF_H

#include "conntrack.h"

#define CLIENT_LIFETIME (60 * SECONDS)
#define CLIENT_REFRESH (1 * SECONDS) /* `seen` is not written more often */

static __always_inline struct tenant *find_tenant(__u32 number)
{
	struct tenant_key key = {.tenant = number};

	return tenants.lookup(&key);
}

/* Marks the new flow for the proxy, or applies the tenant's failure mode. */
static __always_inline int start_handoff(struct packet *packet)
{
	struct tenant *tenant = find_tenant(packet->tenant);

	if (!opens_tcp(packet))
		return DROP_PROXY_MIDSTREAM;
	if (tenant && tenant->ready && tenant->proxy) {
		packet->key.leg = LEG_CLIENT;
		packet->proxy = tenant->proxy;
		if (!packet->is_question)
			count_stat(STAT_HANDOFFS);
		return DROP_NONE;
	}
	if (tenant && tenant->failure_mode == FAILURE_OPEN) {
		packet->verdict = VERDICT_ALLOW;
		if (!packet->is_question)
			count_stat(STAT_FAILED_OPEN);
		return DROP_NONE;
	}
	return DROP_PROXY_NOT_READY;
}

static __always_inline void note_client(struct packet *packet)
{
	struct proxy_client_key key = {.proxy = packet->proxy, .client = packet->source};
	struct proxy_client fresh = {.seen = packet->now};
	struct proxy_client *known = proxy_clients.lookup(&key);

	if (!known || packet->now - known->seen > CLIENT_REFRESH)
		proxy_clients.update(&key, &fresh);
}

/* Of a flow that has a proxy, what does not come from that proxy goes there. */
static __always_inline int approach_proxy(struct packet *packet)
{
	struct proxy_key key = {.ifindex = packet->proxy};

	if (!packet->proxy)
		return DROP_NONE;
	packet->to_proxy = proxies.lookup(&key);
	if (!packet->to_proxy)
		return DROP_PROXY_NOT_READY; /* it was taken away, and its connections with it */
	if (packet->key.leg == LEG_CLIENT && packet->kind == KIND_FLOW && !packet->is_question)
		note_client(packet);
	return DROP_NONE;
}

/*
 * The confused deputy's answer: nobody but a present client is spoken for, and only where policy
 * has a say: to or from a workload of this node.
 */
static __always_inline int check_client(struct packet *packet)
{
	struct proxy_client_key key = {.proxy = packet->skb->ifindex, .client = packet->source};
	struct proxy_client *known = proxy_clients.lookup(&key);

	/* another CPU may have seen the client after this packet's `now` */
	if (!known || known->seen + CLIENT_LIFETIME < packet->now)
		return DROP_PROXY_SOURCE;
	if (!packet->to_local && !local_addrs.lookup(&packet->source))
		return DROP_PROXY_SOURCE;
	return opens_tcp(packet) ? DROP_NONE : DROP_PROXY_MIDSTREAM;
}

/* An upstream leg goes on directly where its own handoff led here, but past nobody else's proxy. */
static __always_inline int start_upstream(struct packet *packet)
{
	struct proxy_key key = {.ifindex = packet->proxy};
	struct proxy *proxy = proxies.lookup(&key);

	if (packet->verdict != VERDICT_HANDOFF)
		return DROP_NONE;
	packet->verdict = VERDICT_ALLOW;
	return proxy && proxy->tenant == packet->tenant ? DROP_NONE : DROP_PROXY_TENANT;
}

#endif
