/**
 * What every daemon of a cluster believes of every other, as it comes to believe it: over `watch`, so that times are
 * when it happened and not when somebody asked.
 */

import type { MemberRow, WatchEvent } from "../../node/control/api.ts";
import type { ControlClient } from "../../node/control/client.ts";
import type { ClusterHost } from "../cluster.ts";

type State = MemberRow["state"];
type Belief = { state: State; atMs: number };

export class Observers {
  /** By observer and observed, names. */
  readonly #beliefs = new Map<string, Map<string, Belief>>();
  readonly #clients = new Map<string, ControlClient>();
  readonly #waiting = new Set<() => void>();
  readonly #names: ReadonlyMap<string, string>;
  #newsAtMs = 0;

  /** `hosts`: all that will ever be observed. */
  constructor(hosts: readonly ClusterHost[]) {
    this.#names = new Map(hosts.map(({ hostId, name }) => [hostId, name]));
  }

  /** Begins, or begins again with a daemon that was restarted. */
  async observe(host: ClusterHost): Promise<void> {
    await this.forget(host);
    const client = await host.connect();
    this.#newsAtMs = performance.now();
    this.#clients.set(host.name, client);
    const beliefs = new Map<string, Belief>();
    this.#beliefs.set(host.name, beliefs);
    client.call("watch", {}, { onEvent: (event) => this.#note(host.name, event) }).catch(() => undefined);
    for (const row of await client.call("members", {})) {
      const name = this.#names.get(row.host);
      if (name !== undefined && !beliefs.has(name))
        beliefs.set(name, { state: row.state, atMs: performance.now() });
    }
    this.#wake();
  }

  async forget({ name }: ClusterHost): Promise<void> {
    this.#beliefs.delete(name);
    await this.#clients.get(name)?.close();
    this.#clients.delete(name);
  }

  async stop(): Promise<void> {
    for (const client of this.#clients.values()) await client.close();
  }

  /**
   * When each observer, or each of `by`, came to believe that, in ms since `sinceMs`; rejects when one does not in
   * time.
   */
  async all(
    observed: readonly string[],
    state: State,
    { sinceMs, timeoutMs, by }: { sinceMs: number; timeoutMs: number; by?: readonly string[] },
  ): Promise<number[]> {
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      const others = this.#others(observed, state, by);
      if (others.length === 0) break;
      const restMs = deadlineMs - performance.now();
      if (restMs <= 0) {
        const some = others.slice(0, 5).join(", ");
        throw new Error(`not all believe ${state} after ${timeoutMs} ms: ${others.length} do not (${some})`);
      }
      await this.#news(restMs);
    }
    const times = this.#by(by).flatMap(([observer, beliefs]) =>
      observed.flatMap((name) => (name === observer ? [] : [Math.max(0, beliefs.get(name)!.atMs - sinceMs)])),
    );
    return times.sort((a, b) => a - b);
  }

  /** Resolves when no daemon has told of anything for so long; rejects when that does not come in time. */
  async quiet(forMs: number, timeoutMs: number): Promise<void> {
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      const restMs = this.#newsAtMs + forMs - performance.now();
      if (restMs <= 0) return;
      if (performance.now() > deadlineMs) throw new Error(`the cluster does not rest within ${timeoutMs} ms`);
      await this.#news(restMs);
    }
  }

  #by(names: readonly string[] | undefined): [string, Map<string, Belief>][] {
    return [...this.#beliefs].filter(([name]) => names === undefined || names.includes(name));
  }

  #others(observed: readonly string[], state: State, by: readonly string[] | undefined): string[] {
    return this.#by(by).flatMap(([observer, beliefs]) =>
      observed
        .filter((name) => name !== observer && beliefs.get(name)?.state !== state)
        .map((name) => `${observer}: ${name} ${beliefs.get(name)?.state ?? "unheard of"}`),
    );
  }

  #note(observer: string, event: WatchEvent): void {
    this.#newsAtMs = performance.now();
    if (event.kind !== "member") return;
    const name = this.#names.get(event.host);
    if (name === undefined) return;
    const state = (event.to ?? "unknown") as State;
    this.#beliefs.get(observer)?.set(name, { state, atMs: performance.now() });
    this.#wake();
  }

  #news(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, timeoutMs);
      this.#waiting.add(done);
    });
  }

  #wake(): void {
    for (const done of [...this.#waiting]) done();
  }
}
