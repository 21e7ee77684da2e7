// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sluice's programs on the node. Each hook parses the packet, passes it through the stages in
 * the order below, and leaves through account().
 *
 *   parse      parse.h      Ethernet to transport into one struct packet
 *   endpoint   endpoint.h   who sits behind the interface, and is the source its own
 *   fragments  fragments.h  ports of a datagram's later fragments
 *   conntrack  conntrack.h  the flow that the packet belongs to     (ICMP errors: related.h)
 *   policy     policy.h     identities, verdict                     (new or outdated flows)
 *   handoff    handoff.h    to the tenant's proxy, if policy says so
 *   deliver    deliver.h    to a local namespace or the node's stack
 *   account    account.h    counters and events
 *   refuse     reset.h      tells the client, where the drop reason calls for it
 */
#include "packet.h"

#include "parse.h"

#include "account.h"
#include "conntrack.h"
#include "deliver.h"
#include "endpoint.h"
#include "fragments.h"
#include "handoff.h"
#include "policy.h"
#include "related.h"
#include "reset.h"
#include "tproxy.h"

/* A flow ends as it began, with its proxy or without: only that it may pass is asked again. */
static __always_inline int judge_again(struct packet *packet)
{
	int reason = judge(packet);

	if (!reason && packet->key.leg == LEG_CLIENT)
		packet->verdict = VERDICT_HANDOFF;
	else if (!reason && packet->verdict == VERDICT_HANDOFF)
		packet->verdict = VERDICT_ALLOW;
	packet->flow->rule = packet->rule;
	packet->flow->verdict = packet->verdict;
	packet->flow->revision = current_revision();
	return reason;
}

/* Takes over what an earlier packet of the flow decided, or asks policy again. */
static __always_inline int recall(struct packet *packet)
{
	struct flow *flow = packet->flow;
	int reason = DROP_NONE;

	packet->proxy = flow->proxy;
	packet->verdict = flow->verdict;
	packet->rule = flow->rule;
	if (!is_current(flow) || flow->verdict == VERDICT_DENY)
		reason = judge_again(packet);
	packet->tenant = flow->tenant;
	return reason;
}

/* The packet's flow: judged when it is new or the policy has moved, and kept account of. */
static __always_inline int pass_flow(struct packet *packet)
{
	int reason;

	if (packet->flow) {
		reason = recall(packet);
		if (!reason && packet->kind == KIND_FLOW)
			track(packet, packet->flow);
		return reason;
	}
	reason = judge(packet);
	if (reason)
		return reason;
	if (packet->flow_flags & FLOW_FROM_PROXY)
		reason = start_upstream(packet);
	else if (packet->verdict == VERDICT_HANDOFF)
		reason = start_handoff(packet);
	return reason ? reason : open_flow(packet);
}

static __always_inline int find_any_flow(struct packet *packet)
{
	if (packet->kind == KIND_ICMP_ERROR)
		return find_quoted(packet);
	find_flow(packet);
	return DROP_NONE;
}

static __always_inline int workload_stages(struct packet *packet)
{
	int reason = find_workload(packet);

	if (!reason)
		reason = parse(packet);
	if (reason)
		return reason;
	if (packet->kind == KIND_ARP || packet->kind == KIND_NEIGHBOUR)
		return check_neighbour(packet);
	reason = check_source(packet);
	if (!reason)
		reason = find_fragment(packet);
	if (reason)
		return reason;
	find_destination(packet);
	reason = find_any_flow(packet);
	/* A workload routes for nobody: it reports on what was sent to itself. */
	if (!reason && packet->kind == KIND_ICMP_ERROR && check_source(packet))
		reason = DROP_ICMP_UNRELATED;
	if (!reason)
		reason = pass_flow(packet);
	return reason ? reason : approach_proxy(packet);
}

/*
 * What is for a group is judged by each receiver, packet by packet: its flow, if the sender is
 * local, has been judged for the sender alone. Nobody can be handed it.
 */
static __always_inline int pass_group(struct packet *packet)
{
	int reason = judge(packet);

	if (!reason && packet->verdict == VERDICT_HANDOFF)
		reason = DROP_DESTINATION;
	return reason;
}

static __always_inline int foreign_stages(struct packet *packet)
{
	int reason = find_workload(packet);

	if (!reason)
		reason = parse(packet);
	if (reason || packet->kind == KIND_ARP || packet->kind == KIND_NEIGHBOUR)
		return reason;
	reason = check_foreign_source(packet);
	find_destination(packet);
	if (!reason)
		reason = check_destination(packet);
	if (!reason)
		reason = find_fragment(packet);
	if (reason)
		return reason;
	if (!packet->to_local && packet->kind == KIND_FLOW)
		return pass_group(packet);
	reason = find_any_flow(packet);
	if (!reason)
		reason = pass_flow(packet);
	return reason ? reason : approach_proxy(packet);
}

static __always_inline int proxy_stages(struct packet *packet)
{
	struct proxy_key key = {.ifindex = packet->skb->ifindex};
	int reason;

	if (!proxies.lookup(&key))
		return DROP_NO_WORKLOAD;
	reason = parse(packet);
	if (reason)
		return reason;
	if (packet->kind != KIND_FLOW || packet->is_fragment || packet->protocol != IPPROTO_TCP)
		return DROP_PROXY_PROTOCOL; /* its TCP sends no fragments either */
	find_destination(packet);
	reason = find_proxy_flow(packet);
	if (!reason && !packet->flow) {
		packet->proxy = key.ifindex; /* of the upstream leg that opens */
		reason = check_client(packet);
	}
	return reason ? reason : pass_flow(packet);
}

/* BCC declares this one without the length of its parameters. */
static int (*redirect_neigh)(__u32 ifindex, void *parameters, int length,
                             __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

/* Where a tenant's failure mode is closed, its clients are told at once. */
static __always_inline int refuse(struct packet *packet)
{
	return turn_into_reset(packet) ? into_namespace(packet->skb, packet->skb->ifindex)
	                               : TC_ACT_SHOT;
}

/* Nobody but root can read the secret, and 64 bits are not guessed. */
static __always_inline bool is_question(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct settings *setting = settings.lookup(&zero);
	__u64 mark = ((__u64)skb->cb[1] << 32) | skb->cb[0];

	return setting && mark && setting->trace == mark;
}

static __always_inline void begin(struct packet *packet, struct __sk_buff *skb, __u8 hook)
{
	packet->skb = skb;
	packet->is_question = hook != TO_PROXY && is_question(skb);
	packet->now = bpf_ktime_get_ns();
	packet->hook = hook;
}

/* TC ingress on the node side of a workload's veth: what the workload sends. */
int from_workload(struct __sk_buff *skb)
{
	struct packet packet = {};
	int reason;

	begin(&packet, skb, FROM_WORKLOAD);
	reason = workload_stages(&packet);
	if (reason == DROP_PROXY_NOT_READY) {
		account(&packet, reason, TC_ACT_SHOT);
		return refuse(&packet);
	}
	return account(&packet, reason, reason ? 0 : deliver(&packet));
}

/* TC egress on the same interface: what comes to the workload from the node, a bridge, a wire. */
int to_workload(struct __sk_buff *skb)
{
	struct packet packet = {};
	int reason;

	begin(&packet, skb, TO_WORKLOAD);
	reason = foreign_stages(&packet);
	return account(&packet, reason, reason ? 0 : deliver(&packet));
}

/* TC ingress on the node side of a proxy's veth: its replies and its upstream legs. */
int from_proxy(struct __sk_buff *skb)
{
	struct packet packet = {};
	int reason;

	begin(&packet, skb, FROM_PROXY);
	reason = proxy_stages(&packet);
	return account(&packet, reason, reason ? 0 : deliver(&packet));
}

/* TC ingress inside a proxy's namespace: gives what arrives to the proxy's sockets. */
int to_proxy(struct __sk_buff *skb)
{
	struct packet packet = {};
	int reason;

	begin(&packet, skb, TO_PROXY);
	reason = parse(&packet);
	if (!reason)
		reason = assign_socket(&packet);
	if (!reason)
		return TC_ACT_OK;
	count(&packet, reason, 0, DIRECTION_INGRESS);
	/* The stack sends no reset from an address that is not its own. */
	if (reason == DROP_NO_LISTENER && turn_into_reset(&packet))
		return redirect_neigh(skb->ifindex, NULL, 0, 0);
	return TC_ACT_SHOT;
}
