/** What must hold in every state, and which states are a good end. */

import { verifyChain } from "../../protocol/custody.ts";
import { decide } from "../../protocol/recovery.ts";
import { crypto, factOf } from "./custody.ts";
import { testimonyOf } from "./operator.ts";
import type { Host, World } from "./state.ts";

/** The rule that is broken, in words; undefined when all hold. */
export function brokenRule(world: World): string | undefined {
  const hosts = Object.values(world.hosts);
  const running = hosts.filter(({ guest }) => guest?.state === "running");
  // Where an operator gave a word that was not true, only the fence can end what it began.
  if (running.length > 1 && world.truth.adoptions === 0) {
    return `the domain runs on ${running.map(({ name }) => name).join(" and ")}`;
  }
  const owners = hosts.filter(({ name, journal }) => journal.domain?.owner === name);
  const generations = new Set(owners.map(({ journal }) => journal.domain!.generation));
  // After a second word, or a hop of a host that was not fenced, it is a conflict, which is said aloud: see `reasonOf`.
  const { adoptions, wordWasFalse } = world.truth;
  const mayConflict = adoptions >= 2 || (wordWasFalse && world.hops > 1);
  if (generations.size < owners.length && !mayConflict) {
    return `${owners.map(({ name }) => name).join(" and ")} own the same generation`;
  }
  for (const host of running) {
    const { owner, generation } = host.journal.domain ?? {};
    if (owner !== host.name)
      return `it runs on ${host.name}, whose journal gives generation ${generation} to ${owner}`;
  }
  const wrong = hosts.map((host) => wrongCertificate(world, host)).find((rule) => rule !== undefined);
  if (wrong !== undefined) return wrong;
  const [newest] = owners.toSorted((a, b) => b.journal.domain!.generation - a.journal.domain!.generation);
  return newest === undefined ? undefined : lostData(world, newest);
}

/** A host's chain of custody always checks, and says nothing that did not happen, whatever it has not heard yet. */
function wrongCertificate({ truth }: World, { name, journal }: Host): string | undefined {
  const { custody } = journal;
  if (custody === undefined || custody.length === 0) return undefined;
  const lie = custody.map(factOf).find((fact) => !truth.given.includes(fact));
  if (lie !== undefined) return `${name} believes a certificate of what never was: ${lie}`;
  let problem = problems.get(custody);
  if (problem === undefined)
    problems.set(custody, (problem = verifyChain(custody, crypto).problems[0] ?? ""));
  return problem === "" ? undefined : `the chain of custody on ${name} is not sound: ${problem}`;
}

/** Chains are shared by thousands of worlds. */
const problems = new WeakMap<object, string>();

/** Whoever owns the domain under the highest generation sees what was last acknowledged. */
function lostData({ hosts, truth }: World, host: Host): string | undefined {
  const { guest, presence, journal, name } = host;
  if (guest?.state === "running" && guest.memory !== truth.memory) {
    return `the guest on ${name} remembers ${guest.memory} writes of ${truth.memory}`;
  }
  const isMissing = (block: number): boolean => {
    return presence?.generation === journal.domain!.generation && (presence.now & (1 << block)) !== 0;
  };
  for (const [block, value] of truth.newest.entries()) {
    const holder = isMissing(block) ? hosts[presence!.from]! : host;
    const seen = holder.disk?.now[block];
    if (seen !== value) return `block ${block} on ${holder.name} holds write ${seen}, the newest is ${value}`;
  }
  return undefined;
}

/** Where all is well: it runs on its one owner, and nobody waits for anything that will not come. */
export function isGoodEnd(world: World): boolean {
  const hosts = Object.values(world.hosts);
  if (hosts.some(({ daemon }) => daemon === undefined || daemon.recoveries.length > 0)) return false;
  const running = hosts.filter(({ guest }) => guest?.state === "running");
  if (conflictOf(world) !== undefined) return true;
  if (running.length === 1) {
    const { name, journal } = running[0]!;
    const { domain, custody } = journal;
    const isTold =
      custody === undefined || (custody.at(-1)?.certificate.generation ?? 1) === domain?.generation;
    return domain?.owner === name && isTold;
  }
  return running.length === 0 && reasonOf(world) !== undefined;
}

/** Two owners of one generation, both of which know it: only people can settle that. */
function conflictOf(world: World): string | undefined {
  const testimonies = Object.values(world.hosts).map(testimonyOf);
  for (const mine of testimonies) {
    for (const theirs of testimonies) {
      if (mine.host >= theirs.host || mine.claim?.owner !== mine.host) continue;
      const decision = decide({ mine, theirs });
      if (decision.do === "conflict") return `conflict of ${decision.hosts.join(" and ")}`;
    }
  }
  return undefined;
}

/** Why the domain does not run, where a host says so: it is off, or it is frozen and `recover` has an answer. */
export function reasonOf(world: World): string | undefined {
  const conflict = conflictOf(world);
  if (conflict !== undefined) return conflict;
  const hosts = Object.values(world.hosts);
  const testimonies = hosts.map(testimonyOf);
  const off = hosts.find(({ name, journal, guest }) => journal.domain?.owner === name && guest === undefined);
  if (off !== undefined) return `off on ${off.name}, its owner`;
  for (const mine of testimonies) {
    if (mine.outgoing?.phase !== "handed-over") continue;
    const theirs = testimonies.find(({ host }) => host === mine.outgoing!.peer)!;
    const decision = decide({ mine, theirs });
    // A handover that could be finished has to finish by itself; it does not need an operator.
    if (decision.do === "renounce" || decision.do === "take-back") return `frozen, ${decision.do} is due`;
  }
  return undefined;
}
