/**
 * What `recover` does: one answer for whatever the two ends of a handover say about a domain (PROTOCOL.md §15).
 *
 *   source's journal    destination's journal                 answer
 *   ----------------    ---------------------                 ------
 *   begun               any before `owner`                    nothing: the attempt is under way, and may be cancelled
 *   aborted, none       receiving, prepared                   roll back: the destination gives up what it received
 *   handed-over         prepared, memory here                 finish: the source hands over again
 *   handed-over         prepared, memory lost                 renounce, then take back, where the source's guest is
 *                                                             frozen still; else finish, and boot at the destination
 *   handed-over         none, receiving, aborted              renounce: it never promised, or has lost the promise
 *   handed-over         renounced (says: source, c+2)         take back under c+2: the second half
 *   handed-over         any, c+2 or more is not the source's  let go: end the remains, forget the handover
 *   handed-over         owner, guest runs                     nothing but a new session: post-copy goes on
 *   handed-over         owner, guest suspended                resume it at the destination
 *   handed-over         owner, guest gone                     boot it from disk at the destination: it may have run
 *   any, owner at c     owner at a higher generation          fence the host with the lower one
 *   owner at c          owner at c                            conflict: nobody's data is touched; `--adopt` on the
 *                                                             right one settles it, and the other fences itself
 *   no migration        owner, guest suspended, gone, runs    resume, boot, nothing
 *   (no answer)         owner, or source before the handover  as if it were alone: its own journal is enough
 *   (no answer)         any other                             wait, stay frozen, explain; what `--adopt` would do
 *
 * Both testimonies may be old when the answer is carried out. Each answer is therefore safe on what is final in
 * them (an aborted attempt stays aborted, a generation only rises), and who carries it out looks at its own
 * journal again, under the domain's lock. "Take back" is the only answer that moves ownership: the destination
 * first renounces c+1 durably, so that a `handover` that is still on its way finds nobody, and only then does
 * the source own c+2. Cut short between the two, the domain is nobody's, frozen at the source, and `recover`
 * goes on from there.
 *
 * A testimony about a migration counts only if it was asked for after that migration was seen: see `isAbout`.
 */

import type { DestinationRecord } from "./destination-state.ts";
import type { HostId, MigrationId } from "./messages.ts";
import type { SourceRecord } from "./source-state.ts";
import type { Generation } from "./units.ts";

/** Owns what no journal gives to anybody any more: a repaired one may be older than the truth. No host is called so. */
export const NOBODY: HostId = "nobody";

export type GuestState = "running" | "suspended" | "incoming" | "none";

/** What one host's journal and hypervisor say about one domain. */
export type Testimony = {
  readonly host: HostId;
  /** Its journal's record of the domain: who owns it under the highest generation that it knows. */
  readonly claim: { readonly owner: HostId; readonly generation: Generation } | undefined;
  readonly guest: GuestState;
  /** The guest is off because somebody shut it down. */
  readonly isStopped: boolean;
  readonly outgoing:
    | {
        readonly migration: MigrationId;
        readonly peer: HostId;
        /** The stay that ends with the migration. */
        readonly generation: Generation;
        readonly phase: SourceRecord["phase"];
      }
    | undefined;
  readonly incoming:
    | {
        readonly migration: MigrationId;
        readonly peer: HostId;
        readonly generation: Generation;
        readonly phase: DestinationRecord["phase"];
        /** Blocks that only the source has; undefined when that cannot be told. */
        readonly missingBlocks: number | undefined;
      }
    | undefined;
  /** The generation of this host's whole replica. */
  readonly replica: Generation | undefined;
};

/** What `--adopt` would start from here, or why it would not. */
export type Adoption =
  | { readonly from: "running guest" | "frozen guest" | "disk"; readonly generation: Generation }
  | { readonly from: "replica"; readonly generation: Generation; readonly replica: Generation }
  | { readonly refused: string };

/**
 * `at` names the one host that has something to do: whoever else runs `recover` asks it to run its own. A
 * handover that is taken back has two such steps, first `renounce`, then `take-back`.
 */
export type Decision =
  | { readonly do: "nothing"; readonly because: string }
  /** The source opens another session and says `handover`, or what else it has to say. */
  | { readonly do: "finish-handover"; readonly at: HostId; readonly migration: MigrationId }
  /** The destination gives up what an attempt brought. */
  | { readonly do: "roll-back"; readonly at: HostId; readonly migration: MigrationId }
  /** The destination gives `generation` to the source, durably. It has not run the domain and never will under an older one. */
  | {
      readonly do: "renounce";
      readonly at: HostId;
      readonly owner: HostId;
      readonly migration: MigrationId;
      readonly generation: Generation;
    }
  /** The source, to whom `generation` was given, makes it its own and lets the domain run. */
  | {
      readonly do: "take-back";
      readonly at: HostId;
      readonly migration: MigrationId;
      readonly generation: Generation;
    }
  /** The source forgets a handover of a domain that went on under a later generation, and ends its remains. */
  | { readonly do: "let-go"; readonly at: HostId; readonly migration: MigrationId; readonly because: string }
  | { readonly do: "resume" | "boot"; readonly at: HostId; readonly because: string }
  | {
      readonly do: "fence";
      readonly at: HostId;
      readonly owner: HostId;
      readonly generation: Generation;
    }
  /** `adoption`: what the operator's word would do that this host's side is the right one. */
  | {
      readonly do: "conflict";
      readonly hosts: readonly HostId[];
      readonly generation: Generation;
      readonly adoption: Adoption;
    }
  | { readonly do: "wait"; readonly because: string; readonly adoption: Adoption };

/** `heard`: the highest generation that anybody is said to have; what is adopted is above that, too. */
export function decide({
  mine,
  theirs,
  heard = 0,
}: {
  mine: Testimony;
  theirs: Testimony | "unreachable";
  heard?: Generation;
}): Decision {
  if (theirs === "unreachable") return alone(mine, heard);
  const rivals = rivalry(mine, theirs, heard);
  if (rivals !== undefined) return rivals;
  for (const [source, destination] of [
    [mine, theirs],
    [theirs, mine],
  ] as const) {
    const answer = handover(source, destination) ?? undone(source, destination);
    if (answer !== undefined) return answer;
  }
  const owner = [mine, theirs].find(isOwner);
  if (owner !== undefined) return atOwner(owner);
  // The other host has nothing to say about it, and may not be the one that has.
  if (mine.claim?.owner === NOBODY && highest(mine, theirs)?.owner === NOBODY) {
    return nobodys(mine, Math.max(generationAbove(mine, theirs), heard + 1));
  }
  const { owner: elsewhere, generation } = highest(mine, theirs) ?? {};
  if (elsewhere === undefined) return { do: "nothing", because: "neither host knows the domain" };
  return { do: "nothing", because: `generation ${generation} of the domain is ${elsewhere}'s: ask there` };
}

/**
 * Whether an answer that was asked for when this host looked like `then` may be acted on now. One that is older
 * than a migration says nothing of it, and its silence must not be taken for "given up".
 */
export function isAbout(then: Testimony, now: Testimony): boolean {
  return (
    then.incoming?.migration === now.incoming?.migration &&
    then.outgoing?.migration === now.outgoing?.migration
  );
}

/** Above everything that the host knows of, promises to others included. */
export function generationAbove(...testimonies: readonly Testimony[]): Generation {
  const known = testimonies.flatMap(({ claim, outgoing, incoming }) => [
    claim?.generation ?? 0,
    outgoing === undefined ? 0 : outgoing.generation + 1,
    incoming === undefined || incoming.phase === "aborted" ? 0 : incoming.generation + 1,
  ]);
  return Math.max(...known) + 1;
}

function isOwner({ host, claim }: Testimony): boolean {
  return claim?.owner === host;
}

/** The claim that counts, of one host's or both's. */
export function highest(a: Testimony, b: Testimony | undefined): Testimony["claim"] {
  const claims = [a.claim, b?.claim].filter((claim) => claim !== undefined);
  const rank = ({ owner }: { owner: HostId }): number => (owner === NOBODY ? 0 : 1);
  return claims.toSorted((x, y) => y.generation - x.generation || rank(y) - rank(x))[0];
}

/** Two hosts that both think that the domain is theirs, or one that runs what is not. */
function rivalry(a: Testimony, b: Testimony, heard: Generation): Decision | undefined {
  if (isOwner(a) && isOwner(b)) {
    const { generation } = a.claim!;
    if (generation === b.claim!.generation) {
      const raised = Math.max(generationAbove(a, b), heard + 1);
      const adoption: Adoption = { from: livingOf(a), generation: raised };
      return { do: "conflict", hosts: [a.host, b.host].toSorted(), generation, adoption };
    }
    const [low, high] = generation < b.claim!.generation ? [a, b] : [b, a];
    return { do: "fence", at: low.host, ...high.claim! };
  }
  const stray = [a, b].find((host) => host.guest === "running" && !isOwner(host));
  const claim = highest(a, b);
  if (stray === undefined || claim === undefined) return undefined;
  if (claim.owner === stray.host || claim.owner === NOBODY) return undefined;
  return { do: "fence", at: stray.host, ...claim };
}

/** The source's journal says that it handed the domain over to this destination. */
function handover(source: Testimony, destination: Testimony): Decision | undefined {
  const { outgoing } = source;
  if (outgoing?.phase !== "handed-over" || outgoing.peer !== destination.host) return undefined;
  const { migration, generation } = outgoing;
  const { claim, incoming } = destination;
  if (claim !== undefined && claim.generation > generation) {
    if (claim.owner === source.host) {
      return { do: "take-back", at: source.host, migration, generation: claim.generation };
    }
    if (claim.generation > generation + 1) {
      const because = `generation ${claim.generation} of the domain is ${claim.owner}'s`;
      return { do: "let-go", at: source.host, migration, because };
    }
    const answer = isOwner(destination) ? atOwner(destination) : undefined;
    if (answer !== undefined && answer.do !== "nothing") return answer;
    return { do: "nothing", because: `it runs on ${claim.owner}; what is missing there follows by itself` };
  }
  const isPromised = incoming?.migration === migration && incoming.phase === "prepared";
  if (isPromised && (destination.guest !== "none" || source.guest !== "suspended")) {
    return { do: "finish-handover", at: source.host, migration };
  }
  return { do: "renounce", at: destination.host, owner: source.host, migration, generation: generation + 2 };
}

/** The destination still keeps what an attempt brought that its source has given up. */
function undone(source: Testimony, destination: Testimony): Decision | undefined {
  const { incoming } = destination;
  if (incoming?.peer !== source.host || !isOwner(source)) return undefined;
  if (incoming.phase !== "prepared" && incoming.phase !== "receiving") return undefined;
  const { migration } = incoming;
  const { outgoing } = source;
  if (outgoing?.migration === migration && outgoing.phase === "begun") {
    return { do: "nothing", because: "the migration is under way and can be cancelled" };
  }
  return { do: "roll-back", at: destination.host, migration };
}

/** Its journal gives it the domain: whether that runs is this host's own matter. */
function atOwner({ host, guest, outgoing, isStopped }: Testimony): Decision {
  switch (guest) {
    case "running":
      return { do: "nothing", because: `it runs on ${host}` };
    case "suspended":
    case "incoming":
      if (outgoing?.phase === "begun") {
        return { do: "nothing", because: "the migration is under way and can be cancelled" };
      }
      return { do: "resume", at: host, because: "it is suspended, and nothing that it waits for is left" };
    case "none":
      if (isStopped) return { do: "nothing", because: `it was shut down on ${host}; \`start\` runs it` };
      return {
        do: "boot",
        at: host,
        because: "its memory is gone with its host's power; its disks are here",
      };
  }
}

/** What of a domain is on a host that owns it. */
function livingOf({ guest }: Pick<Testimony, "guest">): "running guest" | "frozen guest" | "disk" {
  if (guest === "running") return "running guest";
  return guest === "suspended" ? "frozen guest" : "disk";
}

function alone(mine: Testimony, heard: Generation): Decision {
  if (isOwner(mine)) return atOwner(mine);
  const { outgoing, incoming, guest, replica, claim } = mine;
  const generation = Math.max(generationAbove(mine), heard + 1);
  if (outgoing?.phase === "handed-over") {
    return {
      do: "wait",
      because: `it was handed over to ${outgoing.peer}, which does not answer and may be running it`,
      adoption: { from: guest === "suspended" ? "frozen guest" : "disk", generation },
    };
  }
  if (incoming?.phase === "prepared") {
    const because = `it waits here for ${incoming.peer} to hand it over, which may be running it`;
    if (incoming.missingBlocks === 0) {
      return {
        do: "wait",
        because,
        adoption: { from: livingOf(mine), generation },
      };
    }
    const missing = incoming.missingBlocks ?? "an unknown number of";
    return { do: "wait", because, adoption: { refused: `${missing} blocks are only on ${incoming.peer}` } };
  }
  if (claim === undefined) {
    return {
      do: "wait",
      because: "this host does not know the domain",
      adoption: { refused: "nothing of it is here" },
    };
  }
  if (claim.owner === NOBODY) return nobodys(mine, generation);
  const because = `generation ${claim.generation} is ${claim.owner}'s, which does not answer`;
  if (replica === undefined)
    return { do: "wait", because, adoption: { refused: "there is no whole replica here" } };
  return { do: "wait", because, adoption: { from: "replica", generation, replica } };
}

function nobodys({ incoming, replica, ...mine }: Testimony, generation: Generation): Decision {
  const because = "this host's journal was repaired, and another host may have the domain";
  if (incoming !== undefined && incoming.missingBlocks !== 0) {
    const missing = incoming.missingBlocks ?? "an unknown number of";
    return { do: "wait", because, adoption: { refused: `${missing} blocks are only on ${incoming.peer}` } };
  }
  if (replica === undefined) return { do: "wait", because, adoption: { refused: "its vbds are not here" } };
  return { do: "wait", because, adoption: { from: livingOf(mine), generation } };
}
