/**
 * Asks every daemon again and again which domains run on it, by its own journal and hypervisor and not by gossip, and
 * records each resume with the time by the wall clock and the generation.
 */

import type { DomainRow } from "../../node/control/api.ts";
import type { ControlClient } from "../../node/control/client.ts";
import type { ClusterHost } from "../cluster.ts";

export type Resume = { at: string; domain: string; generation: number; host: string };

/** When a host was asked and when it had answered: it ran the domain at some moment between. */
type Sight = { fromMs: number; toMs: number; host: string; domain: string; generation: number };

const EVERY_MS = 50;

export class Witness {
  readonly #hosts: readonly ClusterHost[];
  readonly #sights: Sight[] = [];
  readonly #resumes: Resume[] = [];
  #running: Promise<void>[] = [];
  #isStopping = false;
  #looks = 0;

  constructor(hosts: readonly ClusterHost[]) {
    this.#hosts = hosts;
  }

  start(): void {
    this.#running = this.#hosts.map((host) => this.#watch(host));
  }

  async stop(): Promise<{ resumes: readonly Resume[]; offences: readonly string[]; looks: number }> {
    this.#isStopping = true;
    await Promise.all(this.#running);
    return { resumes: this.#resumes, offences: this.#offences(), looks: this.#looks };
  }

  async #watch(host: ClusterHost): Promise<void> {
    const client = await host.connect();
    let before = new Set<string>();
    try {
      while (!this.#isStopping) {
        before = await this.#look(host, client, before);
        await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      }
    } finally {
      await client.close();
    }
  }

  async #look(host: ClusterHost, client: ControlClient, before: ReadonlySet<string>): Promise<Set<string>> {
    const fromMs = performance.now();
    const rows = await client.call("list", {});
    const toMs = performance.now();
    this.#looks += 1;
    const running = rows.filter((row: DomainRow) => row.host === host.hostId && row.state === "running");
    for (const { id, generation } of running) {
      this.#sights.push({ fromMs, toMs, host: host.name, domain: id, generation });
      if (before.has(id)) continue;
      this.#resumes.push({ at: new Date().toISOString(), domain: id, generation, host: host.name });
    }
    return new Set(running.map(({ id }) => id));
  }

  /** A generation has one host, and who has seen a later one run never sees an earlier one run again. */
  #offences(): string[] {
    const owners = new Map<string, string>();
    const offences = new Set<string>();
    for (const { domain, generation, host } of this.#sights) {
      const key = `${domain} under generation ${generation}`;
      const owner = owners.get(key);
      if (owner !== undefined && owner !== host) offences.add(`${key} ran on ${owner} and on ${host}`);
      owners.set(key, host);
    }
    const newest = new Map<string, Sight>();
    for (const sight of [...this.#sights].sort((a, b) => a.fromMs - b.fromMs)) {
      const seen = newest.get(sight.domain);
      if (seen === undefined || sight.generation > seen.generation) newest.set(sight.domain, sight);
      else if (sight.generation < seen.generation && sight.fromMs > seen.toMs) {
        offences.add(
          `${sight.domain} ran under ${sight.generation} on ${sight.host} after ${seen.generation}`,
        );
      }
    }
    return [...offences];
  }
}
