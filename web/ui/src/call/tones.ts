// The product's sounds: soft tones, made when they are needed.

/** playTones plays tones: when each starts, in seconds from now, and its pitch in Hz. */
export function playTones(context: AudioContext, tones: readonly (readonly [at: number, pitch: number])[], loudness = 0.12): void {
    for (const [at, pitch] of tones) {
        const tone = context.createOscillator();
        const gain = context.createGain();
        const start = context.currentTime + at;
        tone.frequency.value = pitch;
        gain.gain.setValueAtTime(0, start);
        gain.gain.linearRampToValueAtTime(loudness, start + 0.03);
        gain.gain.exponentialRampToValueAtTime(0.001, start + 0.26);
        tone.connect(gain).connect(context.destination);
        tone.start(start);
        tone.stop(start + 0.3);
    }
}
