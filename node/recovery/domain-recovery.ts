/**
 * `recover` in the data process: testifies for this host, and carries out this host's own part of what
 * `protocol/recovery.ts` decides. Every part looks at the journal again, with the domain locked and its machines
 * stopped: what the other host said may be old, and what this host said, too.
 */

import type { DomainDescription } from "../../protocol/messages.ts";
import { type Decision, decide, isAbout, type Testimony } from "../../protocol/recovery.ts";
import type { DomainRecord, HistoryRecord } from "../../storage/records.ts";
import type { Clock } from "../clock.ts";
import { NodeError } from "../errors.ts";
import type { HostSigner } from "../host-signer.ts";
import type { Log } from "../log.ts";
import type { Migrations } from "../migration/migrations.ts";
import { setAside } from "./aside.ts";
import { own } from "./ownership.ts";
import { type TestimonyParts, testimonyOf } from "./testimony.ts";

export type DomainRecoveryParts = TestimonyParts & {
  hostName: string;
  migrations: Migrations;
  clock: Clock;
  log: Log;
  sign: HostSigner;
  changed(domain: string): void;
};

/** What the other host said, when this host looked like `asked`. */
export type Heard = {
  asked: Testimony;
  theirs: Testimony;
  /** As the other host describes the domain, for a host that never knew it. */
  description: DomainDescription | undefined;
};

export type AdoptionWord = {
  reason: string;
  user: string;
  /** The highest generation that anybody is said to have. */
  heard: number;
  rival: Testimony | undefined;
};

/** `isStale`: meanwhile something changed here, and the other host has to be asked anew. */
export type Deed = { did: string } | { isStale: true };

type Part<Kind extends Decision["do"]> = Extract<Decision, { do: Kind }>;

const STALE: Deed = { isStale: true };

export class DomainRecovery {
  readonly #parts: DomainRecoveryParts;

  constructor(parts: DomainRecoveryParts) {
    this.#parts = parts;
  }

  /** By id or name; also one that a migration brought here and that never ran here. */
  async find(
    query: string,
  ): Promise<{ id: string; name: string; description: DomainDescription } | undefined> {
    const { metadata, domains } = this.#parts;
    const record = await metadata.domains.find(query);
    if (record !== undefined)
      return { id: record.id, name: record.name, description: domains.describe(record) };
    for (const { role, record: entry } of await metadata.journal.list()) {
      if (role !== "destination" || !("domain" in entry)) continue;
      const { id, name } = entry.domain;
      if (id === query || name === query) return { id, name, description: entry.domain };
    }
    return undefined;
  }

  testify(id: string): Promise<Testimony> {
    return testimonyOf(this.#parts, id);
  }

  /** Does what is this host's to do, if anything still is. */
  async carryOut(id: string, { asked, theirs, description }: Heard): Promise<Deed> {
    const { domains, self } = this.#parts;
    return domains.exclusive(id, async () => {
      const mine = await this.testify(id);
      if (!isAbout(asked, mine)) return STALE;
      const decision = decide({ mine, theirs });
      if (!("at" in decision) || decision.at !== self) return STALE;
      const deed = await this.#do(id, decision, { mine, theirs, description });
      this.#parts.changed(id);
      if ("did" in deed)
        this.#parts.log.warn("recovered", { domain: id, decision: decision.do, did: deed.did });
      return deed;
    });
  }

  /** Also without the other host: only what this host's journal alone allows. */
  async carryOutAlone(id: string): Promise<Deed> {
    const { domains, self } = this.#parts;
    return domains.exclusive(id, async () => {
      const mine = await this.testify(id);
      const decision = decide({ mine, theirs: "unreachable" });
      if ((decision.do !== "resume" && decision.do !== "boot") || decision.at !== self) return STALE;
      return this.#run(id, decision);
    });
  }

  /**
   * The operator's word that the other host is fenced, or, where `rival` claims the same generation, that this
   * host's side is the right one. Throws OWNERSHIP_UNCERTAIN when nothing here could run.
   */
  async adopt(id: string, { reason, user, heard, rival }: AdoptionWord): Promise<{ did: string }> {
    const { domains, metadata, migrations, self, clock, log } = this.#parts;
    return domains.exclusive(id, async () => {
      let mine = await this.testify(id);
      const decision = decide({ mine, theirs: rival ?? "unreachable", heard });
      const found = await this.find(id);
      if ((decision.do !== "wait" && decision.do !== "conflict") || found === undefined) {
        throw new NodeError("USAGE", {
          reason: "there is nothing to adopt: this host's journal gives it the domain",
        });
      }
      const { adoption } = decision;
      const because = decision.do === "wait" ? decision.because : `${rival!.host} has the same generation`;
      if ("refused" in adoption) {
        throw new NodeError("OWNERSHIP_UNCERTAIN", {
          domain: found.name,
          reason: `${because}; it cannot be adopted: ${adoption.refused}`,
        });
      }
      await migrations.forsake(id);
      const { generation } = adoption;
      if (adoption.from === "running guest") {
        // It goes on where it was, under another generation.
        await domains.hypervisor(found.description.hypervisor).suspend(id);
        mine = await this.testify(id);
      }
      const known = await metadata.domains.get(id);
      const entry = mine.outgoing ?? mine.incoming;
      const createdAt = known?.createdAt ?? clock.wallMs();
      const previous = rival?.host ?? mine.claim?.owner ?? entry?.peer ?? self;
      const record: DomainRecord = {
        ...found.description,
        vbds: found.description.vbds,
        createdAt,
        generation,
        owner: self,
        state: "running",
      };
      const facts = { from: adoption.from, reason, user, previousOwner: previous, because };
      await own(this.#parts, record, {
        mine,
        // Whatever else calls itself a generation of this domain may have another history from here on.
        log: "unknown",
        journalRemoved: entry?.migration,
        history: this.#history(record, {
          from: previous,
          outcome: "adopted",
          figures: facts,
          migration: entry?.migration,
        }),
      });
      this.#parts.changed(id);
      log.warn("a domain was adopted on its operator's word", { domain: id, generation, ...facts });
      return { did: `adopted from its ${adoption.from} as generation ${generation}` };
    });
  }

  async #do(
    id: string,
    decision: Extract<Decision, { at: string }>,
    heard: { mine: Testimony; theirs: Testimony; description: DomainDescription | undefined },
  ): Promise<Deed> {
    const { migrations } = this.#parts;
    switch (decision.do) {
      case "finish-handover":
        await migrations.takeUp(id);
        return { did: "hands over again, as often as it takes" };
      case "roll-back":
        await migrations.takeUp(id);
        await migrations.rollBack(decision.migration, "its source has given it up");
        return { did: "gave up what the aborted migration had brought; the bytes stay as a copy" };
      case "resume":
      case "boot":
        return this.#run(id, decision);
      case "renounce":
      case "take-back":
      case "let-go":
      case "fence":
        return this.#moved(id, decision, heard);
    }
  }

  /** Ownership moves. The machines are stopped first; then what was decided has to be right still. */
  async #moved(
    id: string,
    decision: Part<"renounce" | "take-back" | "let-go" | "fence">,
    { theirs, description }: { theirs: Testimony; description: DomainDescription | undefined },
  ): Promise<Deed> {
    const { migrations } = this.#parts;
    await migrations.forsake(id);
    const mine = await this.testify(id);
    const again = decide({ mine, theirs });
    if (again.do !== decision.do) {
      await migrations.takeUp(id);
      return STALE;
    }
    switch (decision.do) {
      case "renounce":
        return this.#renounce(id, decision, description);
      case "take-back":
        return this.#takeBack(id, decision, mine);
      case "let-go":
        return this.#letGo(id, decision);
      case "fence":
        return this.#fence(id, decision);
    }
  }

  async #renounce(
    id: string,
    { owner, generation, migration }: Part<"renounce">,
    description: DomainDescription | undefined,
  ): Promise<Deed> {
    const { metadata, domains, clock, self } = this.#parts;
    const known = await metadata.domains.get(id);
    const found = (await this.find(id))?.description ?? description;
    if (found === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query: id });
    await this.#endGuest(id, found.hypervisor);
    await domains.close(id);
    const createdAt = known?.createdAt ?? clock.wallMs();
    const replica = await metadata.replicas.get(id, self);
    await metadata.journal.commit({
      journalRemoved: migration,
      domain: { ...found, vbds: found.vbds, createdAt, generation, owner, state: "away" },
      ...(replica === undefined
        ? {}
        : {
            replicas: [
              {
                ...replica,
                updatedAt: clock.wallMs(),
                state: "unknown",
                reason: "a handover to this host was taken back",
              },
            ],
          }),
    });
    return { did: `renounced generation ${generation - 1}` };
  }

  async #takeBack(id: string, { generation, migration }: Part<"take-back">, mine: Testimony): Promise<Deed> {
    const { metadata, self } = this.#parts;
    const known = await metadata.domains.get(id);
    if (known === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query: id });
    const record: DomainRecord = { ...known, generation, owner: self, state: "running" };
    const how =
      mine.guest === "suspended" ? "it runs on where it was frozen" : "it was booted from its disks";
    await own(this.#parts, record, {
      mine,
      log: "unwritten",
      journalRemoved: migration,
      history: this.#history(record, {
        from: known.owner,
        outcome: "taken back",
        figures: { how },
        migration,
      }),
    });
    return { did: `took the domain back under generation ${generation}; ${how}` };
  }

  async #letGo(id: string, { migration, because }: Part<"let-go">): Promise<Deed> {
    const { metadata, domains } = this.#parts;
    const known = await metadata.domains.get(id);
    if (known === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query: id });
    await this.#endGuest(id, known.hypervisor);
    await metadata.journal.commit({ journalRemoved: migration, vbds: await domains.identify(known) });
    return { did: `ended the frozen remains: ${because}` };
  }

  async #fence(id: string, { owner, generation }: Part<"fence">): Promise<Deed> {
    const { metadata, domains, log } = this.#parts;
    const known = await metadata.domains.get(id);
    if (known === undefined) throw new NodeError("DOMAIN_UNKNOWN", { query: id });
    const hypervisor = domains.hypervisor(known.hypervisor);
    const { state } = await hypervisor.status(id);
    // While its vbds still answer: afterwards it could not finish what it has begun.
    if (state === "running") {
      await hypervisor
        .suspend(id)
        .catch((error: unknown) => log.warn("a fenced guest does not stop", { domain: id, error }));
    }
    await domains.close(id);
    const { guestGeneration: _guestGeneration, ...rest } = known;
    const record: DomainRecord = { ...rest, owner, generation, state: "away" };
    const aside = await setAside(this.#parts, known, {
      domain: record,
      history: (files) =>
        this.#history(record, { from: this.#parts.self, to: owner, outcome: "fenced", figures: { files } }),
    });
    await this.#endGuest(id, known.hypervisor, { evenRunning: true });
    log.error("this host was fenced: the domain is another's, and what it wrote here is kept aside", {
      domain: id,
      generation: known.generation,
      owner,
      ownerGeneration: generation,
      aside,
    });
    return { did: `stopped generation ${known.generation}, and keeps its vbds aside as ${aside.join(", ")}` };
  }

  /** Its own domain: let run what is frozen, boot what is off. */
  async #run(id: string, { do: what }: Part<"resume" | "boot">): Promise<Deed> {
    const { metadata, domains, migrations, self } = this.#parts;
    const record = await metadata.domains.get(id);
    const incoming = migrations.incoming(id)?.phase;
    const isBusy =
      migrations.outgoing(id) !== undefined || (incoming !== undefined && incoming !== "post-copy");
    if (record?.owner !== self || isBusy) return STALE;
    await domains.refuseRivals(record);
    const hypervisor = domains.hypervisor(record.hypervisor);
    if (domains.attachment(id) === undefined) await domains.open(record);
    if (what === "resume") await hypervisor.resume(id);
    else {
      await hypervisor.destroy(id);
      await hypervisor.start(domains.spec(record, await domains.vbdsOf(record)));
    }
    await metadata.journal.commit({ domain: { ...record, state: "running" } });
    this.#parts.changed(id);
    return { did: what === "resume" ? "let it run again" : "booted it from its disks" };
  }

  async #endGuest(id: string, kind: string, { evenRunning = false } = {}): Promise<void> {
    const hypervisor = this.#parts.domains.hypervisor(kind);
    const { state } = await hypervisor.status(id);
    if (state === "running" && !evenRunning)
      throw new NodeError("DOMAIN_STATE", { domain: id, state, wanted: "suspended" });
    await hypervisor.destroy(id);
  }

  #history(
    { id, generation, owner }: DomainRecord,
    {
      from,
      to = owner,
      outcome,
      figures,
      migration,
    }: { from: string; to?: string; outcome: string; figures: object; migration?: string | undefined },
  ): HistoryRecord {
    const now = this.#parts.clock.wallMs();
    return {
      migration: migration ?? `${outcome}-${generation}`,
      domain: id,
      from,
      to,
      generation: generation - 1,
      startedAt: now,
      endedAt: now,
      outcome,
      figures: JSON.stringify(figures),
    };
  }
}
