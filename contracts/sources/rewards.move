/// From work to money, in integers rounded down: the reward of a task, and who gets which part of it.
///
/// Knows no accounts and no state.  `cactus_mesh/core/pricing.py` computes the same.
module cactus_mesh::rewards {
    const PPM: u128 = 1_000_000;
    const BPS: u128 = 10_000;

    /// What makes a reward.  `unit_price` is octas per TFLOP, `ms_price` octas per counted millisecond; compute time
    /// counts up to `allowed_base_ms + complexity * allowed_us_per_mflop / 1000`.
    struct RewardParams has copy, drop, store {
        base: u64,
        unit_price: u64,
        ms_price: u64,
        allowed_base_ms: u64,
        allowed_us_per_mflop: u64,
        fee_bps: u64
    }

    /// Where a task's money goes; the four parts always sum to the maximum price.
    struct Split has copy, drop, store {
        orchestrator: u64,
        delegate: u64,
        fee: u64,
        refund: u64
    }

    public fun new_params(
        base: u64, unit_price: u64, ms_price: u64, allowed_base_ms: u64, allowed_us_per_mflop: u64, fee_bps: u64
    ): RewardParams {
        RewardParams { base, unit_price, ms_price, allowed_base_ms, allowed_us_per_mflop, fee_bps }
    }

    /// The parameters in the order of `new_params`.
    public fun values(params: &RewardParams): vector<u64> {
        vector[
            params.base, params.unit_price, params.ms_price, params.allowed_base_ms, params.allowed_us_per_mflop,
            params.fee_bps
        ]
    }

    public fun fee_bps(params: &RewardParams): u64 {
        params.fee_bps
    }

    /// Success rate with a prior of nine successes in ten, so that a newcomer starts at 0.9.
    public fun success_ppm(completed: u64, failed: u64): u64 {
        let completed = (completed as u128);
        ((completed + 9) * PPM / (completed + (failed as u128) + 10) as u64)
    }

    /// The formula, at most `max_price`.  A success rate above 10^6 ppm counts as 10^6.
    ///
    /// With any u64 arguments and parameters within the contract's bounds, each intermediate value stays below 2^105.
    public fun reward(
        params: &RewardParams, max_price: u64, complexity: u64, compute_ms: u64, success_ppm: u64
    ): u64 {
        let complexity = (complexity as u128);
        let allowed_ms = (params.allowed_base_ms as u128) + complexity * (params.allowed_us_per_mflop as u128) / 1_000;
        let work = (params.base as u128) + complexity * (params.unit_price as u128) / PPM
            + min(allowed_ms, (compute_ms as u128)) * (params.ms_price as u128);
        let success = 500_000 + min(PPM, (success_ppm as u128)) / 2;
        (min((max_price as u128), work * success / PPM) as u64)
    }

    /// Divide `gross` (at most `max_price`): the fee first, then the delegate's share of the rest.
    public fun split(gross: u64, max_price: u64, fee_bps: u64, delegate_bps: u64): Split {
        let fee = share(gross, fee_bps);
        let payout = gross - fee;
        let delegate = share(payout, delegate_bps);
        Split { orchestrator: payout - delegate, delegate, fee, refund: max_price - gross }
    }

    /// `bps` ten-thousandths of `amount`, rounded down.
    public fun share(amount: u64, bps: u64): u64 {
        ((amount as u128) * (bps as u128) / BPS as u64)
    }

    public fun to_orchestrator(split: &Split): u64 {
        split.orchestrator
    }

    public fun to_delegate(split: &Split): u64 {
        split.delegate
    }

    public fun fee(split: &Split): u64 {
        split.fee
    }

    public fun refund(split: &Split): u64 {
        split.refund
    }

    /// What the client paid.
    public fun paid(split: &Split): u64 {
        split.orchestrator + split.delegate + split.fee
    }

    fun min(a: u128, b: u128): u128 {
        if (a < b) a else b
    }
}
