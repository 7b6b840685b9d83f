/**
 * Buffers of the data path: taken, shared by reference count, given back, and counted.
 *
 * Memory fresh from the kernel costs a page fault per 4 KiB, more than the copy into it; so buffers are kept, in classes
 * of a power of two and room for a reply's header. What is held is counted per lease (one per connection) and for the
 * pool, and whoever holds too much must wait: that is the server's bound on memory.
 */

/** Room beside the payload, so that 4 KiB and a header do not need the class of 8 KiB. */
const HEADER_ROOM_BYTES = 64;
const CLASS_SMALLEST = 12;
/** Larger buffers are rare and go back to the system. */
const CLASS_KEPT_MAX = 20;
/** Free buffers kept per class. */
const KEPT_BYTES_MAX = 8 << 20;

export class PooledBuffer {
  readonly bytes: Buffer;
  readonly sizeClass: number;
  references = 1;
  lease: BufferLease;

  constructor(bytes: Buffer, sizeClass: number, lease: BufferLease) {
    this.bytes = bytes;
    this.sizeClass = sizeClass;
    this.lease = lease;
  }

  retain(): void {
    this.references++;
  }

  release(): void {
    if (--this.references === 0) this.lease.giveBack(this);
  }
}

export class BufferPool {
  readonly heldBytesMax: number;
  heldBytes = 0;
  readonly #free = new Map<number, PooledBuffer[]>();
  readonly #waiting = new Set<() => void>();

  constructor({ heldBytesMax }: { heldBytesMax: number }) {
    this.heldBytesMax = heldBytesMax;
  }

  get isFull(): boolean {
    return this.heldBytes >= this.heldBytesMax;
  }

  /** Calls once, when the pool is no longer full. */
  whenRoom(wake: () => void): void {
    this.#waiting.add(wake);
  }

  take(sizeBytes: number, lease: BufferLease): PooledBuffer {
    const sizeClass = Math.max(
      CLASS_SMALLEST,
      32 - Math.clz32(Math.max(sizeBytes - HEADER_ROOM_BYTES, 1) - 1),
    );
    const kept = this.#free.get(sizeClass)?.pop();
    this.heldBytes += capacityOf(sizeClass);
    if (kept === undefined)
      return new PooledBuffer(Buffer.allocUnsafeSlow(capacityOf(sizeClass)), sizeClass, lease);
    kept.references = 1;
    kept.lease = lease;
    return kept;
  }

  put(buffer: PooledBuffer): void {
    const { sizeClass } = buffer;
    const wasFull = this.isFull;
    this.heldBytes -= capacityOf(sizeClass);
    if (sizeClass <= CLASS_KEPT_MAX) {
      let free = this.#free.get(sizeClass);
      if (free === undefined) this.#free.set(sizeClass, (free = []));
      if (free.length * capacityOf(sizeClass) < KEPT_BYTES_MAX) free.push(buffer);
    }
    if (wasFull && !this.isFull && this.#waiting.size > 0) {
      const waiting = [...this.#waiting];
      this.#waiting.clear();
      for (const wake of waiting) wake();
    }
  }
}

/** One connection's share of the pool. */
export class BufferLease {
  heldBytes = 0;
  readonly #pool: BufferPool;

  constructor(pool: BufferPool) {
    this.#pool = pool;
  }

  get pool(): BufferPool {
    return this.#pool;
  }

  take(sizeBytes: number): PooledBuffer {
    const buffer = this.#pool.take(sizeBytes, this);
    this.heldBytes += capacityOf(buffer.sizeClass);
    return buffer;
  }

  giveBack(buffer: PooledBuffer): void {
    this.heldBytes -= capacityOf(buffer.sizeClass);
    this.#pool.put(buffer);
  }
}

function capacityOf(sizeClass: number): number {
  return 2 ** sizeClass + HEADER_ROOM_BYTES;
}
