/**
 * Sees on which host a domain runs, in two ways that know nothing of gossip. A hook on every host writes down each
 * resume as it happens, with the time by the wall clock and the generation; and every daemon is asked again and again
 * which domains run there, by its own journal and hypervisor.
 */

import { mkdirSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { DomainRow } from "../../node/control/api.ts";
import type { ControlClient } from "../../node/control/client.ts";
import type { ClusterHost } from "../cluster.ts";
import { pause } from "../waiting.ts";

export type Resume = { atMs: number; domain: string; generation: number; host: string };

/** When a host was asked and when it had answered: it ran the domain at some moment between. */
export type Sight = { fromMs: number; toMs: number; host: string; domain: string; generation: number };

export type Testimony = { resumes: readonly Resume[]; offences: readonly string[]; looks: number };

/** Of all hosts together: a witness must not be what keeps the cluster busy. */
const LOOKS_PER_SECOND = 80;

export class Witness {
  readonly #hosts: readonly ClusterHost[];
  readonly #file: string;
  readonly #sights: Sight[] = [];
  #running: Promise<void>[] = [];
  #isStopping = false;
  #looks = 0;

  /** `folder` is the cluster's. */
  constructor(hosts: readonly ClusterHost[], folder: string) {
    this.#hosts = hosts;
    this.#file = join(folder, "resumes.log");
  }

  start(): void {
    writeFileSync(this.#file, "");
    for (const host of this.#hosts) {
      const hooks = join(host.dataDir, "hooks");
      mkdirSync(hooks, { recursive: true });
      // One short line in one write: appended whole, whoever else appends.
      const script = `#!/bin/sh\nread -r facts\necho "$(date +%s%3N) ${host.name} $facts" >>'${this.#file}'\n`;
      writeFileSync(join(hooks, "post-resume"), script, { mode: 0o755 });
    }
    this.#running = this.#hosts.map((host) => this.#watch(host));
  }

  async stop(): Promise<Testimony> {
    this.#isStopping = true;
    await Promise.all(this.#running);
    const resumes = (await readFile(this.#file, "utf8")).split("\n").filter(Boolean).map(resumeOf);
    return { resumes, offences: offencesIn(resumes, this.#sights), looks: this.#looks };
  }

  async #watch(host: ClusterHost): Promise<void> {
    const everyMs = (1000 * this.#hosts.length) / LOOKS_PER_SECOND;
    const client = await host.connect();
    try {
      while (!this.#isStopping) {
        await this.#look(host, client);
        await pause(everyMs);
      }
    } finally {
      await client.close();
    }
  }

  async #look(host: ClusterHost, client: ControlClient): Promise<void> {
    const fromMs = Date.now();
    const rows = await client.call("list", {});
    const toMs = Date.now();
    this.#looks += 1;
    const running = rows.filter((row: DomainRow) => row.host === host.hostId && row.state === "running");
    for (const { id, generation } of running) {
      this.#sights.push({ fromMs, toMs, host: host.name, domain: id, generation });
    }
  }
}

/** A generation is resumed once and has one host, and after a later one no earlier one runs or is resumed. */
export function offencesIn(resumes: readonly Resume[], sights: readonly Sight[]): string[] {
  const offences = new Set<string>();
  const owners = new Map<string, string>();
  const resumed = new Set<string>();
  for (const { domain, generation, host } of resumes) {
    const key = `${domain} under generation ${generation}`;
    if (resumed.has(key)) offences.add(`${key} was resumed twice, on ${owners.get(key)} and on ${host}`);
    resumed.add(key);
    owners.set(key, host);
  }
  const asSights = resumes.map(({ atMs, ...rest }) => ({ ...rest, fromMs: atMs, toMs: atMs }));
  const newest = new Map<string, Sight>();
  for (const sight of [...sights, ...asSights].sort((a, b) => a.fromMs - b.fromMs)) {
    const { domain, generation, host, fromMs } = sight;
    const key = `${domain} under generation ${generation}`;
    const owner = owners.get(key);
    if (owner !== undefined && owner !== host) offences.add(`${key} ran on ${owner} and on ${host}`);
    owners.set(key, host);
    const seen = newest.get(domain);
    if (seen === undefined || generation > seen.generation) newest.set(domain, sight);
    else if (generation < seen.generation && fromMs > seen.toMs) {
      offences.add(`${domain} ran under ${generation} on ${host} after ${seen.generation} on ${seen.host}`);
    }
  }
  return [...offences];
}

function resumeOf(line: string): Resume {
  const [, at, host, facts] = /^(\d+) (\S+) (.*)$/.exec(line) as unknown as [string, string, string, string];
  const { domain, generation } = JSON.parse(facts) as { domain: string; generation: number };
  return { atMs: Number(at), host, domain, generation };
}
