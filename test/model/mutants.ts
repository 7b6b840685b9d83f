/** Seeded bugs: each a change of one rule that the real code keeps. The checker has to find every one. */

import type { SourceEffect, SourceState } from "../../protocol/source.ts";
import { lostWhilePrepared, realParts, type Scenario, scenario } from "./scenarios.ts";
import type { Parts } from "./state.ts";

export type Mutant = { name: string; breaks: string; parts: Parts; scenario: Scenario };

type SourceStep = Parts["source"]["step"];
type DestinationStep = Parts["destination"]["step"];

function source(
  change: (
    step: ReturnType<SourceStep>,
    before: SourceState,
    args: Parameters<SourceStep>,
  ) => ReturnType<SourceStep>,
): Parts {
  const step: SourceStep = (...args) => {
    const before = { ...args[0] };
    return change(realParts.source.step(...args), before, args);
  };
  return { ...realParts, source: { ...realParts.source, step } };
}

function destination(
  change: (
    step: ReturnType<DestinationStep>,
    args: Parameters<DestinationStep>,
  ) => ReturnType<DestinationStep>,
): Parts {
  const step: DestinationStep = (...args) => change(realParts.destination.step(...args), args);
  return { ...realParts, destination: { ...realParts.destination, step } };
}

function daemon(wrong: Parts["daemon"]): Parts {
  return { ...realParts, daemon: wrong };
}

const oneCrash = scenario("one crash", ["AB"], { faults: ["crashes"] });
const oneLoss = scenario("one loss", ["AB"], { faults: ["losses"] });

export const mutants: readonly Mutant[] = [
  {
    name: "handover-before-persist",
    breaks: "durable before visible: the source says `handover` before its record is durable",
    scenario: oneCrash,
    parts: source(([state, effects]) => {
      const isHandover = (effect: SourceEffect): boolean =>
        effect.type === "send" && effect.message.type === "handover";
      return [state, [...effects.filter(isHandover), ...effects.filter((effect) => !isHandover(effect))]];
    }),
  },
  {
    name: "resume-at-prepared",
    breaks: "a destination in doubt waits: it lets the domain run as soon as it is prepared",
    scenario: oneLoss,
    parts: {
      ...destination(([state, effects]) => {
        const isPromise = effects.some(
          (effect) => effect.type === "persist" && effect.record.phase === "prepared",
        );
        if (!isPromise || state.phase !== "prepared") return [state, effects];
        const { begun } = state;
        const owner = { phase: "owner", source: "A", ...begun } as const;
        return [
          state,
          [...effects, { type: "persist", record: owner }, { type: "resume-domain", generation: 2 }],
        ];
      }),
    },
  },
  {
    name: "unfreeze-after-handover",
    breaks: "the point of no return: a source that lost the link takes the domain back",
    scenario: oneLoss,
    parts: source(([state, effects], before, [, event]) => {
      const isBack = before.phase === "handing-over" && event.type === "peer-lost";
      return [state, isBack ? [...effects, { type: "unfreeze-domain" }] : effects];
    }),
  },
  {
    name: "forget-prepared",
    breaks: "a promise is kept over restarts: the destination forgets that it was prepared",
    scenario: oneCrash,
    parts: {
      ...realParts,
      destination: {
        ...realParts.destination,
        restore: (record, options) =>
          realParts.destination.restore(
            record,
            record.phase === "prepared" ? { isMemoryLost: true } : options,
          ),
      },
    },
  },
  {
    name: "begun-means-nothing",
    breaks: "presumed abort: a restarted source takes `handed-over` for `begun`",
    scenario: oneCrash,
    parts: {
      ...realParts,
      source: {
        ...realParts.source,
        restore: (record) =>
          realParts.source.restore(record.phase === "handed-over" ? { ...record, phase: "begun" } : record),
      },
    },
  },
  {
    name: "cancel-after-handover",
    breaks: "nothing undoes a handover: the source can be told to cancel while it hands over",
    scenario: scenario("cancel", ["AB"], { faults: ["cancels"] }),
    parts: source(([state, effects], before, [, event, { migration, destination: to, generation }]) => {
      if (before.phase !== "handing-over" || event.type !== "cancel") return [state, effects];
      const record = { phase: "aborted", migration, destination: to, generation, reason: "" } as const;
      return [
        { phase: "aborting", link: "up", reason: "" },
        [{ type: "unfreeze-domain" }, { type: "persist", record }],
      ];
    }),
  },
  {
    name: "no-thaw",
    breaks: "before the handover every failure leaves the domain running at the source",
    scenario: oneLoss,
    parts: source(([state, effects]) => [state, effects.filter(({ type }) => type !== "thaw-domain")]),
  },
  {
    name: "lost-round",
    breaks: "a freeze waits for every round's answer: the last round's blocks are not sent",
    scenario: scenario("two writes", ["AB"], { writes: 2 }),
    parts: source((step, before, [, event]) => {
      if (event.type !== "fenced" || before.phase !== "freezing") return step;
      const [state, effects] = step;
      return [
        state,
        effects.map((effect) => {
          if (effect.type !== "send" || effect.message.type !== "prepare") return effect;
          const missing = effect.message.missing.map((bitmap) => {
            const none = bitmap.clone();
            none.clear();
            return none;
          });
          return { ...effect, message: { ...effect.message, missing } };
        }),
      ];
    }),
  },
  {
    name: "late-block-wins",
    breaks: "a late block loses: a pushed block overwrites what the guest has written since",
    scenario: scenario("late", ["AB"], { writes: 2 }),
    parts: daemon({ storesLateBlocks: true }),
  },
  {
    name: "synchronised-before-flush",
    breaks: "the source is let go only when everything is durable at the destination",
    scenario: scenario("power", ["AB"], { faults: ["powers"], writes: 1 }),
    parts: destination(([state, effects], [, event]) => {
      if (event.type !== "nothing-missing" || state.phase !== "post-copy") return [state, effects];
      const { begun } = state;
      const counts = { pushed: 0, pulled: 0, superseded: 0, late: 0 };
      return [
        { phase: "completed", begun, counts },
        [
          { type: "persist", record: { phase: "synchronised", source: "A", ...begun, counts } },
          { type: "send", message: { type: "synchronised", counts } },
        ],
      ];
    }),
  },
  {
    name: "export-without-looking",
    breaks: "at boot, too, a host runs only what its own journal says is its own",
    scenario: scenario("boot", ["AB"], { faults: ["crashes", "losses"], faultsMax: 2 }),
    parts: daemon({ exportsWithoutLooking: true }),
  },
  {
    name: "take-back-at-once",
    breaks:
      "first the destination renounces, then the source owns: `recover` takes back what was handed over",
    scenario: scenario("recover", ["AB"], { faults: ["losses", "recovers"], faultsMax: 2 }),
    parts: {
      ...realParts,
      decide: (testimonies) => {
        const decision = realParts.decide(testimonies);
        if (decision.do !== "finish-handover") return decision;
        const { at, migration } = decision;
        return { do: "take-back", at, migration, generation: 3 };
      },
    },
  },
  {
    name: "old-silence-counts",
    breaks: "a testimony that is older than a migration says nothing of it",
    scenario: scenario("old", ["AB"], { faults: ["recovers"] }),
    parts: { ...realParts, isAbout: () => true },
  },
  {
    name: "back-too-early",
    breaks: "a domain comes back only when its way out is over",
    scenario: scenario("back", ["AB", "BA"], { writes: 1 }),
    parts: daemon({ takesBackTooEarly: true }),
  },
  {
    name: "adopt-without-raising",
    breaks: "an adopted domain runs under a generation above everything known",
    scenario: scenario("adopt", ["AB"], { faults: ["adopts"] }),
    parts: daemon({ adoptsWithoutRaising: true }),
  },
  {
    name: "act-on-old-word",
    breaks: "two recovers at once: who carries a decision out looks at its own journal again",
    scenario: {
      ...scenario("recovers", ["AB"], { faults: ["recovers"], faultsMax: 2 }),
      after: lostWhilePrepared,
    },
    parts: daemon({ actsOnOldWord: true }),
  },
  {
    name: "one-signature",
    breaks: "a handover counts with both signatures: a chain is taken over whoever signed it",
    scenario: scenario("forged", ["AB"], { faults: ["forgeries"], custody: true }),
    parts: daemon({ believesOneSignature: true }),
  },
  {
    name: "claims-count",
    breaks: "who claims a domain has to prove it: its owner gives it up for any chain that is shown",
    scenario: scenario("claimed", ["AB"], { faults: ["forgeries"], custody: true }),
    parts: daemon({ believesClaims: true }),
  },
  {
    name: "never-fence",
    breaks: "who hears of a higher generation stops what it runs",
    scenario: scenario("adopt", ["AB"], { faults: ["adopts"] }),
    parts: daemon({ neverFences: true }),
  },
];
