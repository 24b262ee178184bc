//! Which arm of an experiment a unit belongs to.

/// A unit's place in an experiment, in 2⁻³² of all units: the first four bytes (little-endian) of BLAKE3 over the
/// seed's length (8 bytes, little-endian), the seed and the unit. It depends on nothing else, so a unit stays where it
/// is at every edge and at all times.
pub fn place(seed: &str, unit: &[u8]) -> u64 {
    let hash = blake3::Hasher::new()
        .update(&(seed.len() as u64).to_le_bytes())
        .update(seed.as_bytes())
        .update(unit)
        .finalize();
    let [a, b, c, d, ..] = *hash.as_bytes();
    u64::from(u32::from_le_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_spread_evenly_and_differently_for_each_seed() {
        const UNITS: usize = 20_000;
        let below = |seed: &str, limit: u64| -> Vec<bool> {
            (0..UNITS).map(|unit| place(seed, &unit.to_le_bytes()) < limit).collect()
        };
        let (a, b) = (below("a", 1 << 30), below("b", 1 << 30));
        // A quarter of the range holds a quarter of the units, four standard deviations allowed.
        for side in [&a, &b] {
            let share = side.iter().filter(|inside| **inside).count() as f64 / UNITS as f64;
            assert!((share - 0.25).abs() < 0.0123, "{share}");
        }
        // Being in it for one seed says nothing about the other.
        let both = a.iter().zip(&b).filter(|(a, b)| **a && **b).count() as f64 / UNITS as f64;
        assert!((both - 0.0625).abs() < 0.007, "{both}");
        assert_eq!(place("a", b"x"), place("a", b"x"));
        assert_ne!(place("ab", b"c"), place("a", b"bc"));
    }
}
