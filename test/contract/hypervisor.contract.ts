/**
 * What every hypervisor adapter promises to the migration driver. An adapter's test calls `describeHypervisor`
 * with a way to make two hosts that can reach the same vbds.
 */

import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type {
  DomainSpec,
  Hypervisor,
  IncomingMemory,
  OutgoingMemory,
} from "../../node/hypervisor/hypervisor.ts";

export type HypervisorFixture = {
  /** A domain that may run on either host; its vbds reach the same bytes from both. */
  spec: DomainSpec;
  /** An adapter of that host. Called again, another one, as after a restart of the daemon. */
  open(host: "source" | "target"): Hypervisor;
  /** Resolves when the running guest has done some I/O since the call. */
  works(hypervisor: Hypervisor): Promise<void>;
  /** Requests that reached the vbds so far. */
  requests(): number;
  /** What the guest found wrong with its disk and memory, after looking at all of it. */
  faults(hypervisor: Hypervisor): Promise<string[]>;
  /** Ends the domain's process as the kernel's out-of-memory killer would. */
  kill(hypervisor: Hypervisor): Promise<void>;
  close(): Promise<void>;
};

type Move = { outgoing: OutgoingMemory; incoming: IncomingMemory; pumped: Promise<void> };

export function describeHypervisor(name: string, makeFixture: () => Promise<HypervisorFixture>): void {
  describe(`${name} as a hypervisor`, () => {
    let fixture: HypervisorFixture;
    let source: Hypervisor;
    let target: Hypervisor;
    let id: string;

    beforeEach(async () => {
      fixture = await makeFixture();
      source = fixture.open("source");
      target = fixture.open("target");
      id = fixture.spec.id;
    });

    afterEach(async () => {
      await source.destroy(id);
      await target.destroy(id);
      await fixture.close();
    });

    async function startWorking(): Promise<void> {
      await source.start(fixture.spec);
      await fixture.works(source);
    }

    async function begin(): Promise<Move> {
      const incoming = await target.migrateIn(fixture.spec);
      const outgoing = await source.migrateOut(id);
      return { outgoing, incoming, pumped: pump(outgoing, incoming) };
    }

    /** Everything up to, and without, the resume at the target. */
    async function move(): Promise<Move> {
      const begun = await begin();
      await converged(begun.outgoing);
      await begun.outgoing.freeze();
      await begun.incoming.loaded(await begun.outgoing.ended());
      return begun;
    }

    async function finish({ outgoing, pumped }: Move): Promise<void> {
      await outgoing.cancel();
      await pumped;
    }

    it("knows no domain that was never started", async () => {
      expect(await source.status(id)).toEqual({ state: "shutoff" });
      await expect(source.suspend(id)).rejects.toMatchObject({ code: "HYPERVISOR_NO_SUCH_DOMAIN" });
    });

    it("runs a started domain, which works and finds no fault", async () => {
      await startWorking();
      expect(await source.status(id)).toEqual({ state: "running" });
      expect(await fixture.faults(source)).toEqual([]);
    });

    it("refuses to start a domain twice, and leaves the first alone", async () => {
      await startWorking();
      await expect(source.start(fixture.spec)).rejects.toMatchObject({ code: "HYPERVISOR_DOMAIN_EXISTS" });
      await fixture.works(source);
    });

    it("issues no I/O while a domain is suspended, and goes on after a resume", async () => {
      await startWorking();
      await source.suspend(id);
      expect(await source.status(id)).toEqual({ state: "suspended" });
      const before = fixture.requests();
      // Many turns of a guest that would be running: a status is a round trip to its process.
      for (let i = 0; i < 50; i++) await source.status(id);
      expect(fixture.requests()).toBe(before);
      await source.resume(id);
      await fixture.works(source);
      expect(await fixture.faults(source)).toEqual([]);
    });

    it("suspends and resumes twice as once", async () => {
      await startWorking();
      await source.suspend(id);
      await source.suspend(id);
      await source.resume(id);
      await source.resume(id);
      await fixture.works(source);
    });

    it("shuts a domain down in order", async () => {
      await startWorking();
      await source.shutdown(id);
      expect(await source.status(id)).toEqual({ state: "shutoff" });
    });

    it("destroys a domain at once, again and again", async () => {
      await startWorking();
      await source.destroy(id);
      expect(await source.status(id)).toEqual({ state: "shutoff" });
      await source.destroy(id);
    });

    it("starts anew a domain that was destroyed", async () => {
      await startWorking();
      await source.destroy(id);
      await startWorking();
      expect(await fixture.faults(source)).toEqual([]);
    });

    it("finds its domain again after a restart of the daemon", async () => {
      await startWorking();
      const again = fixture.open("source");
      expect(await again.status(id)).toEqual({ state: "running" });
      await again.suspend(id);
      expect(await source.status(id)).toEqual({ state: "suspended" });
      await again.resume(id);
      await fixture.works(again);
    });

    it("says that a domain crashed whose process was killed", async () => {
      await startWorking();
      await fixture.kill(source);
      expect((await source.status(id)).state).toBe("crashed");
      await source.destroy(id);
      await startWorking();
    });

    it("moves a running domain, which finds no fault at the target", async () => {
      await startWorking();
      const moved = await move();
      expect(await target.status(id)).toEqual({ state: "suspended" });
      expect((await source.status(id)).state).toBe("suspended");
      await target.resume(id);
      await finish(moved);
      await source.destroy(id);
      await fixture.works(target);
      expect(await fixture.faults(target)).toEqual([]);
    });

    it("moves a domain there and back", async () => {
      await startWorking();
      for (let i = 0; i < 2; i++) {
        const moved = await move();
        await target.resume(id);
        await finish(moved);
        await source.destroy(id);
        await fixture.works(target);
        [source, target] = [target, source];
      }
      expect(await fixture.faults(source)).toEqual([]);
    });

    it("issues no I/O between the freeze and the resume, on either side", async () => {
      await startWorking();
      const { outgoing, incoming, pumped } = await begin();
      await converged(outgoing);
      await outgoing.freeze();
      const before = fixture.requests();
      await incoming.loaded(await outgoing.ended());
      for (let i = 0; i < 50; i++) {
        await source.status(id);
        await target.status(id);
      }
      expect(fixture.requests()).toBe(before);
      await finish({ outgoing, incoming, pumped });
    });

    it("keeps a received domain that waits for its resume when the daemon restarts", async () => {
      await startWorking();
      const moved = await move();
      await finish(moved);
      await source.destroy(id);
      const again = fixture.open("target");
      expect(await again.status(id)).toEqual({ state: "suspended" });
      await again.resume(id);
      await fixture.works(again);
      expect(await fixture.faults(again)).toEqual([]);
    });

    it("may be made ready ahead of its resume, and waits all the same, also when the daemon restarts", async () => {
      await startWorking();
      const moved = await move();
      await target.makeReady?.(id);
      expect((await target.status(id)).state).toBe("suspended");
      await finish(moved);
      await source.destroy(id);
      const again = fixture.open("target");
      await again.resume(id);
      await fixture.works(again);
      expect(await fixture.faults(again)).toEqual([]);
    });

    it("runs on at the source after a thaw, and can be frozen and moved later on the same stream", async () => {
      await startWorking();
      const { outgoing, incoming, pumped } = await begin();
      await converged(outgoing);
      await outgoing.freeze();
      const first = await outgoing.ended();
      await outgoing.thaw();
      expect((await source.status(id)).state).toBe("running");
      await fixture.works(source);
      await outgoing.freeze();
      const second = await outgoing.ended();
      expect(second).toBeGreaterThan(first);
      await incoming.loaded(second);
      await target.resume(id);
      await finish({ outgoing, incoming, pumped });
      await source.destroy(id);
      await fixture.works(target);
      expect(await fixture.faults(target)).toEqual([]);
    });

    it("runs on when the thaw comes while the freeze is under way, and can be frozen and moved later", async () => {
      await startWorking();
      const { outgoing, incoming, pumped } = await begin();
      const frozen = outgoing.freeze();
      frozen.catch(() => {});
      await outgoing.thaw();
      await fixture.works(source);
      expect((await source.status(id)).state).toBe("running");
      await converged(outgoing);
      await outgoing.freeze();
      await incoming.loaded(await outgoing.ended());
      await target.resume(id);
      await finish({ outgoing, incoming, pumped });
      await source.destroy(id);
      await fixture.works(target);
      expect(await fixture.faults(target)).toEqual([]);
    });

    it("takes more of a stream that was whole already, when its source was thawed after that", async () => {
      await startWorking();
      const { outgoing, incoming, pumped } = await begin();
      await converged(outgoing);
      await outgoing.freeze();
      await incoming.loaded(await outgoing.ended());
      await outgoing.thaw();
      await fixture.works(source);
      await outgoing.freeze();
      await incoming.loaded(await outgoing.ended());
      await target.resume(id);
      await finish({ outgoing, incoming, pumped });
      await source.destroy(id);
      await fixture.works(target);
      expect(await fixture.faults(target)).toEqual([]);
    });

    it("keeps a domain running whose migration is cancelled before the freeze", async () => {
      await startWorking();
      const begun = await begin();
      await converged(begun.outgoing);
      await finish(begun);
      await begun.incoming.discard();
      await begun.incoming.discard();
      expect((await target.status(id)).state).toBe("shutoff");
      await fixture.works(source);
      expect(await fixture.faults(source)).toEqual([]);
    });

    it("keeps a domain suspended whose migration is cancelled after the freeze", async () => {
      await startWorking();
      const begun = await begin();
      await converged(begun.outgoing);
      await begun.outgoing.freeze();
      await finish(begun);
      await begun.incoming.discard();
      expect((await source.status(id)).state).toBe("suspended");
      await source.resume(id);
      await fixture.works(source);
      expect(await fixture.faults(source)).toEqual([]);
    });

    it("migrates again after a cancelled attempt", async () => {
      await startWorking();
      const begun = await begin();
      await finish(begun);
      await begun.incoming.discard();
      const moved = await move();
      await target.resume(id);
      await finish(moved);
      await source.destroy(id);
      await fixture.works(target);
      expect(await fixture.faults(target)).toEqual([]);
    });

    it("keeps a domain running when whoever read its stream is gone", async () => {
      await startWorking();
      const outgoing = await source.migrateOut(id);
      for await (const _ of outgoing.stream) break;
      await outgoing.cancel();
      await fixture.works(source);
      const again = await source.migrateOut(id);
      await again.cancel();
    });

    it("refuses a truncated stream", async () => {
      await startWorking();
      const incoming = await target.migrateIn(fixture.spec);
      const outgoing = await source.migrateOut(id);
      const kept: Uint8Array[] = [];
      const pumped = (async () => {
        for await (const chunk of outgoing.stream) kept.push(Uint8Array.from(chunk));
      })();
      await converged(outgoing);
      await outgoing.freeze();
      const whole = Buffer.concat([...kept]).length;
      const totalBytes = await outgoing.ended();
      expect(totalBytes).toBeGreaterThanOrEqual(whole);
      const truncated = Buffer.concat(kept).subarray(0, totalBytes - 1);
      await incoming.write(truncated);
      await expect(incoming.loaded(truncated.length)).rejects.toMatchObject({
        code: "HYPERVISOR_BAD_STREAM",
      });
      expect((await target.status(id)).state).not.toBe("suspended");
      await expect(target.resume(id)).rejects.toThrow();
      await incoming.discard();
      await outgoing.cancel();
      await pumped;
    });

    it("refuses what is not a stream of its kind", async () => {
      const incoming = await target.migrateIn(fixture.spec);
      const noise = Buffer.alloc(100_000, 0x5a);
      await incoming.write(noise);
      await expect(incoming.loaded(noise.length)).rejects.toMatchObject({ code: "HYPERVISOR_BAD_STREAM" });
      await incoming.discard();
      expect((await target.status(id)).state).toBe("shutoff");
    });
  });
}

async function pump(outgoing: OutgoingMemory, incoming: IncomingMemory): Promise<void> {
  for await (const chunk of outgoing.stream) {
    // Once the target is discarded there is nobody to write to; the source's own state is what the test looks at.
    await incoming.write(chunk).catch(() => {});
  }
}

function converged(outgoing: OutgoingMemory): Promise<void> {
  return new Promise((resolve) => {
    outgoing.onRound((round) => {
      if (round.converged) resolve();
    });
  });
}
