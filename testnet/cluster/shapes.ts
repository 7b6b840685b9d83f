/** The shapes of a partition: which hosts go on together, and between which nothing passes. */

import type { Cut } from "./namespaces.ts";

export type Partition = {
  /** Hosts that reach each other, of which nobody reaches another group whole. */
  groups: readonly (readonly string[])[];
  cuts: readonly Cut[];
};

export const SHAPES = {
  halves: "two halves that hear nothing of each other",
  "three-way": "three parts, likewise",
  "one-way": "two halves: what the first sends to the second is lost, what it hears of it is not",
} as const;
export type Shape = keyof typeof SHAPES;

export function partitionOf(names: readonly string[], shape: Shape): Partition {
  const count = shape === "three-way" ? 3 : 2;
  const size = Math.ceil(names.length / count);
  const groups = Array.from({ length: count }, (_, index) => names.slice(index * size, (index + 1) * size));
  const cuts = groups.flatMap((group, index) =>
    groups.flatMap((other, otherIndex) => {
      const isCut = shape === "one-way" ? index === 0 && otherIndex === 1 : index !== otherIndex;
      return isCut ? group.flatMap((from) => other.map((to) => ({ from, to }))) : [];
    }),
  );
  return { groups, cuts };
}
