/// Stakes, deposits, escrow and pay for AI inference tasks between clients, routers ("servers") and orchestrators.
///
/// A client deposits coins and signs a *consent* for each task.  A router that the administrator has authorised turns
/// consent and the orchestrator's signed *claim* into pay: through escrow (`create_task` beside the work, `reassign_task`
/// when its orchestrator is lost, then `complete_task`, `fail_task` or `timeout_task`), or straight from deposits (`settle_batch`).  Orchestrators answer
/// with a stake: for what a dispute or two contradicting claims show, some of it goes to the harmed client.
///
/// ## A task in numbers
///
/// A newcomer claims 5,000 octas for 5,000,000 MFLOP in 1,500 ms, under a consent of 10,000, with 40 % for a delegate.
///
/// * work = 200 (base) + 5,000,000 MFLOP * 150 / 10^6 (750) + 1,500 ms * 1 (1,500; up to 502,000 ms would count) = 2,450
/// * success of a newcomer = (0 + 9) * 10^6 / (0 + 10) = 900,000 ppm, so gross = 2,450 * 950,000 / 10^6 = 2,327
/// * fee = 2,327 * 5 % = 116: 23 to the treasury (20 %), 93 to the server
/// * payout = 2,327 - 116 = 2,211: 884 to the delegate's owner (40 %), 1,327 to the orchestrator's owner
/// * refund = 10,000 - 2,327 = 7,673, which stays in the client's deposit
///
/// 1,327 + 884 + 116 + 7,673 = 10,000: payout, delegate's share, fee and refund always make the maximum price.
/// Later the client disputes the result and nobody contests: the stake loses 20,000,000 octas (`max_slash`), of which
/// 2,327 go back to the client's deposit and 19,997,673 to the treasury.  A test computes all of this.
///
/// ## Rules that hold everywhere
///
/// Amounts are octas of the fungible asset APT, times whole Unix seconds, divisions round down.  Each entry function
/// happens wholly or not at all.  A pause stops what comes in (registrations, deposits, stake, new tasks), never what
/// goes out or ends.  Money lies in stores of objects that no key signs for (`vaults.move`).  Records lie with their
/// server, stake or client, and in tables, so that transactions of different parties do not conflict.
///
/// The same rules as a Python state machine: `cactus_mesh/ledger/rules/`; described in `docs/contract.md`.
module cactus_mesh::cactus_payment {
    use std::option::{Self, Option};
    use std::signer;
    use std::string::{Self, String};
    use std::vector;
    use aptos_std::table::{Self, Table};
    use aptos_framework::event;
    use aptos_framework::timestamp;
    use cactus_mesh::rewards::{Self, RewardParams, Split};
    use cactus_mesh::signed;
    use cactus_mesh::vaults;

    // --- errors: category << 16 | reason, as in 0x1::error --------------------------------------------------------

    /// Only the contract's administrator may do this.
    const E_NOT_ADMIN: u64 = 0x50001;
    /// Only the account that was proposed as administrator may accept.
    const E_NOT_PENDING_ADMIN: u64 = 0x50002;
    /// A parameter is outside its bounds, or contradicts another.
    const E_PARAM_OUT_OF_BOUNDS: u64 = 0x20003;
    /// The contract is paused: no registration, no deposit, no new task.
    const E_PAUSED: u64 = 0x30004;
    /// A public key must have 32 bytes.
    const E_BAD_PUBLIC_KEY: u64 = 0x10005;
    /// An amount of zero moves nothing.
    const E_ZERO_AMOUNT: u64 = 0x10006;
    /// The signing account holds fewer coins than that.
    const E_INSUFFICIENT_COINS: u64 = 0x90007;
    /// This account is already registered as a server.
    const E_SERVER_EXISTS: u64 = 0x8000a;
    /// This account is not registered as a server.
    const E_NO_SERVER: u64 = 0x6000b;
    /// This server waits for its authorisation, or was revoked.
    const E_SERVER_NOT_AUTHORISED: u64 = 0x5000c;
    /// This server's authorisation has expired.
    const E_SERVER_EXPIRED: u64 = 0x5000d;
    /// An authorisation must end in the future.
    const E_BAD_EXPIRY: u64 = 0x1000e;
    /// The task would lift what this server holds in escrow above its authorised budget.
    const E_OVER_BUDGET: u64 = 0x2000f;
    /// This operator key is registered, or was until it was replaced.
    const E_ORCHESTRATOR_EXISTS: u64 = 0x80014;
    /// No orchestrator is registered under this operator address.
    const E_NO_ORCHESTRATOR: u64 = 0x60015;
    /// Only the account that owns the stake may do this.
    const E_NOT_OWNER: u64 = 0x50016;
    /// The stake is below the minimum.
    const E_STAKE_TOO_LOW: u64 = 0x20017;
    /// The orchestrator's stake is below the minimum, so that it may not take tasks.
    const E_NOT_STAKED: u64 = 0x30018;
    /// The active stake is smaller than that.
    const E_INSUFFICIENT_STAKE: u64 = 0x90019;
    /// Eight unbondings are under way, which is the most.
    const E_TOO_MANY_UNBONDINGS: u64 = 0x9001a;
    /// No stake is unbonding.
    const E_NOTHING_UNBONDING: u64 = 0x3001b;
    /// No unbonding stake is due yet.
    const E_NO_STAKE_DUE: u64 = 0x3001c;
    /// The stake is frozen by an open dispute.
    const E_FROZEN: u64 = 0x3001d;
    /// The operator key has not signed that it works for this owner.
    const E_BAD_OPERATOR_SIGNATURE: u64 = 0x1001e;
    /// This client has no deposit with the contract.
    const E_NO_CLIENT: u64 = 0x60028;
    /// The client's free deposit is smaller than that.
    const E_INSUFFICIENT_DEPOSIT: u64 = 0x90029;
    /// Eight withdrawals are under way, which is the most.
    const E_TOO_MANY_WITHDRAWALS: u64 = 0x9002a;
    /// No requested withdrawal is due yet.
    const E_NO_WITHDRAWAL_DUE: u64 = 0x3002b;
    /// The client has used this task id before.
    const E_TASK_EXISTS: u64 = 0x80032;
    /// The client has no such task in the ledger.
    const E_NO_TASK: u64 = 0x60033;
    /// The task has failed or timed out and its escrow was refunded.
    const E_TASK_CLOSED: u64 = 0x30034;
    /// This server has settled the task before.
    const E_ALREADY_SETTLED: u64 = 0x80035;
    /// The consent's nonce was used before.
    const E_NONCE_USED: u64 = 0x80036;
    /// A task id must have 16 bytes, a model digest and a result hash 32.
    const E_BAD_LENGTH: u64 = 0x10037;
    /// The client's consent has expired.
    const E_CONSENT_EXPIRED: u64 = 0x30038;
    /// The client's key has not signed this consent for this chain, contract and server.
    const E_BAD_CONSENT_SIGNATURE: u64 = 0x10039;
    /// The orchestrator's key has not signed this claim for this chain, contract, client and server.
    const E_BAD_CLAIM_SIGNATURE: u64 = 0x1003a;
    /// Deadlines must satisfy now <= accept_by <= done_by <= now + longest task.
    const E_BAD_DEADLINES: u64 = 0x1003b;
    /// The task belongs to another server.
    const E_NOT_TASK_SERVER: u64 = 0x5003c;
    /// The escrowed task is assigned to another orchestrator.
    const E_WRONG_ORCHESTRATOR: u64 = 0x5003d;
    /// The delegate is not another registered orchestrator, or its share is above max_delegate_bps.
    const E_BAD_DELEGATE: u64 = 0x1003e;
    /// Complexity, compute time or quality is beyond what the contract computes with.
    const E_CLAIM_OUT_OF_BOUNDS: u64 = 0x2003f;
    /// The deadline has not passed.
    const E_TOO_EARLY: u64 = 0x30040;
    /// A batch has 1 to 50 items and all its columns are equally long.
    const E_BAD_BATCH: u64 = 0x10041;
    /// The task is assigned to this orchestrator already.
    const E_SAME_ORCHESTRATOR: u64 = 0x80042;
    /// Only the contract's arbiter decides a contested dispute.
    const E_NOT_ARBITER: u64 = 0x50046;
    /// This task is not disputed.
    const E_NO_DISPUTE: u64 = 0x60047;
    /// This task has been disputed before.
    const E_DISPUTE_EXISTS: u64 = 0x80048;
    /// Only a completed task can be disputed.
    const E_NOT_DISPUTABLE: u64 = 0x30049;
    /// Only the task's client and its server may dispute it.
    const E_NOT_TASK_PARTY: u64 = 0x5004a;
    /// The task ended longer ago than the dispute window.
    const E_DISPUTE_TOO_LATE: u64 = 0x3004b;
    /// The time to contest this dispute has passed.
    const E_CONTEST_TOO_LATE: u64 = 0x3004c;
    /// The dispute is contested or decided already, or not contested yet.
    const E_WRONG_DISPUTE_STATUS: u64 = 0x3004d;
    /// This operator has been slashed for this task before.
    const E_ALREADY_SLASHED: u64 = 0x8004e;
    /// Both claims commit to the same result.
    const E_NO_EQUIVOCATION: u64 = 0x1004f;

    // --- bounds ---------------------------------------------------------------------------------------------------

    /// APT's metadata object.
    const APT: address = @0xa;
    /// The delegate of a task that its orchestrator did itself.
    const NOBODY: address = @0x0;
    const NO_REASON: u64 = 0;
    const TASK_ID_BYTES: u64 = 16;
    const HASH_BYTES: u64 = 32;
    const PPM: u64 = 1_000_000;
    /// 10^21 FLOP: more than any single task.
    const MAX_COMPLEXITY_MFLOP: u64 = 1_000_000_000_000_000;
    /// Unbondings of one stake, and withdrawals of one client.
    const MAX_PENDING: u64 = 8;
    /// Two signature checks an item: keeps the largest batch well within one transaction's gas and 64 KiB.
    const MAX_BATCH: u64 = 50;
    const DAY_SECONDS: u64 = 86_400;
    /// Inclusive limits of each parameter, in the order of `set_params`.
    const LOWEST: vector<u64> = vector[0, 0, 0, 0, 0, 0, 0, 0, 1, 60, 60, 120, 60, 1, 60, 60, 0];
    const HIGHEST: vector<u64> = vector[
        1_000_000_000, 1_000_000_000, 1_000_000, 600_000, 1_000_000, 2_000, 10_000, 10_000, 100_000_000_000_000,
        604_800, 2_592_000, 5_184_000, 2_592_000, 100_000_000_000_000, 2_592_000, 2_592_000, 100_000_000_000_000
    ];

    // --- states ---------------------------------------------------------------------------------------------------

    const SERVER_PENDING: u8 = 0;
    const SERVER_AUTHORISED: u8 = 1;
    const SERVER_REVOKED: u8 = 2;

    const TASK_CREATED: u8 = 0;
    const TASK_COMPLETED: u8 = 1;
    const TASK_FAILED: u8 = 2;
    const TASK_TIMED_OUT: u8 = 3;

    const DISPUTE_OPEN: u8 = 0;
    const DISPUTE_CONTESTED: u8 = 1;
    const DISPUTE_UPHELD: u8 = 2;
    const DISPUTE_DISMISSED: u8 = 3;
    const DISPUTE_LAPSED: u8 = 4;

    // --- records --------------------------------------------------------------------------------------------------

    struct Params has copy, drop, store {
        reward: RewardParams,
        treasury_bps: u64,
        max_delegate_bps: u64,
        min_stake: u64,
        longest_task_seconds: u64,
        dispute_window_seconds: u64,
        unbonding_seconds: u64,
        withdrawal_seconds: u64,
        dispute_bond: u64,
        contest_seconds: u64,
        arbitration_seconds: u64,
        max_slash: u64
    }

    /// At the contract's address.
    struct Config has key, copy, drop {
        admin: address,
        pending_admin: Option<address>,
        arbiter: address,
        treasury: address,
        asset: address,
        params: Params,
        paused: bool
    }

    /// At the contract's address: what is found by more than one name, or has no account of its own.
    struct Registry has key {
        operators: Table<address, Seat>,
        tasks: Table<TaskKey, Task>,
        nonces: Table<NonceKey, bool>,
        disputes: Table<TaskKey, Dispute>,
        slashes: Table<SlashKey, bool>
    }

    /// Which stake an operator key works for, or worked for until it was replaced.
    struct Seat has copy, drop, store { vault: address, current: bool }

    /// Money on its way out, claimable from `release_at`.
    struct Due has copy, drop, store { amount: u64, release_at: u64 }

    /// What an orchestrator has done under its own liability.  `quality_sum` adds up ppm, `slashed` counts incidents.
    struct Metrics has copy, drop, store {
        completed: u64,
        failed: u64,
        timed_out: u64,
        slashed: u64,
        compute_ms: u64,
        quality_sum: u64
    }

    /// At its vault: a stake and who answers for it.  `owner` receives pay and stake, `public_key` signs claims.  The
    /// vault also holds `bonds`, what the openers of the `open_disputes` have put down.
    struct Orchestrator has key, copy, drop {
        owner: address,
        public_key: vector<u8>,
        vault: address,
        stake: u64,
        open_disputes: u64,
        bonds: u64,
        unbonding: vector<Due>,
        metrics: Metrics
    }

    /// At the server's account.
    struct Server has key, copy, drop {
        status: u8,
        granted_by: Option<address>,
        expires_at: u64,
        max_budget: u64,
        escrowed: u64
    }

    /// At its vault: `deposit` is free to be promised, `escrowed` is promised to open tasks.
    struct Client has key, copy, drop {
        public_key: vector<u8>,
        vault: address,
        deposit: u64,
        escrowed: u64,
        withdrawals: vector<Due>
    }

    struct TaskKey has copy, drop, store { client: address, task_id: vector<u8> }

    struct NonceKey has copy, drop, store { client: address, nonce: u64 }

    /// One incident: an operator key's work on one task.
    struct SlashKey has copy, drop, store { operator: address, client: address, task_id: vector<u8> }

    struct Task has copy, drop, store {
        server: address,
        orchestrator: address,
        status: u8,
        max_price: u64,
        done_by: u64,
        ended_at: u64,
        split: Option<Split>,
        result_hash: vector<u8>
    }

    /// `act_by` is the deadline of whoever is to act: the owner, then the arbiter.
    struct Dispute has copy, drop, store {
        orchestrator: address,
        opener: address,
        bond: u64,
        evidence_hash: vector<u8>,
        answer_hash: vector<u8>,
        opened_at: u64,
        act_by: u64,
        status: u8
    }

    /// The client's part of a payment: what it signed beyond what the contract knows (chain, contract, server).
    struct Consent has copy, drop {
        client: address,
        task_id: vector<u8>,
        nonce: u64,
        max_price: u64,
        expires_at: u64,
        signature: vector<u8>
    }

    /// The orchestrator's part, and the server's `quality_ppm`, which nobody signs but the transaction.
    struct Claim has copy, drop {
        orchestrator: address,
        delegate: address,
        delegate_bps: u64,
        model_digest: vector<u8>,
        complexity: u64,
        compute_ms: u64,
        price: u64,
        result_hash: vector<u8>,
        signature: vector<u8>,
        quality_ppm: u64
    }

    // --- what views show instead of a status number ---------------------------------------------------------------

    struct ServerView has copy, drop {
        status: String,
        granted_by: Option<address>,
        expires_at: u64,
        max_budget: u64,
        escrowed: u64
    }

    struct TaskView has copy, drop {
        server: address,
        orchestrator: address,
        status: String,
        max_price: u64,
        done_by: u64,
        ended_at: u64,
        split: Option<Split>,
        result_hash: vector<u8>
    }

    struct DisputeView has copy, drop {
        orchestrator: address,
        opener: address,
        bond: u64,
        evidence_hash: vector<u8>,
        answer_hash: vector<u8>,
        opened_at: u64,
        act_by: u64,
        status: String
    }

    // --- events ---------------------------------------------------------------------------------------------------

    #[event]
    struct AdminProposed has drop, store { admin: address, proposed: address }

    #[event]
    struct AdminChanged has drop, store { old: address, new: address }

    #[event]
    struct TreasuryChanged has drop, store { old: address, new: address }

    #[event]
    struct ParamsChanged has drop, store { values: vector<u64> }

    #[event]
    struct PausedChanged has drop, store { paused: bool }

    #[event]
    struct ServerRegistered has drop, store { server: address }

    #[event]
    struct ServerAuthorised has drop, store { server: address, granted_by: address, expires_at: u64, max_budget: u64 }

    #[event]
    struct ServerRevoked has drop, store { server: address, revoked_by: address }

    #[event]
    struct OrchestratorRegistered has drop, store {
        operator: address,
        owner: address,
        public_key: vector<u8>,
        stake: u64
    }

    #[event]
    struct OperatorChanged has drop, store { old: address, new: address, public_key: vector<u8> }

    #[event]
    struct StakeAdded has drop, store { operator: address, amount: u64 }

    #[event]
    struct UnstakeRequested has drop, store { operator: address, amount: u64, release_at: u64 }

    #[event]
    struct UnstakeCancelled has drop, store { operator: address, amount: u64 }

    #[event]
    struct StakeWithdrawn has drop, store { operator: address, owner: address, amount: u64 }

    #[event]
    struct ClientRegistered has drop, store { client: address, public_key: vector<u8> }

    #[event]
    struct Deposited has drop, store { client: address, payer: address, amount: u64 }

    #[event]
    struct WithdrawalRequested has drop, store { client: address, amount: u64, release_at: u64 }

    #[event]
    struct Withdrawn has drop, store { client: address, amount: u64 }

    #[event]
    struct TaskCreated has drop, store {
        client: address,
        task_id: vector<u8>,
        server: address,
        orchestrator: address,
        max_price: u64,
        done_by: u64
    }

    #[event]
    struct TaskCompleted has drop, store {
        client: address,
        task_id: vector<u8>,
        server: address,
        orchestrator: address,
        delegate: address,
        max_price: u64,
        payout: u64,
        delegate_payout: u64,
        fee: u64,
        refund: u64,
        complexity: u64,
        compute_ms: u64,
        quality_ppm: u64,
        model_digest: vector<u8>,
        result_hash: vector<u8>
    }

    #[event]
    struct TaskReassigned has drop, store {
        client: address,
        task_id: vector<u8>,
        server: address,
        lost: address,
        orchestrator: address
    }

    #[event]
    struct TaskFailed has drop, store {
        client: address,
        task_id: vector<u8>,
        server: address,
        orchestrator: address,
        refund: u64
    }

    #[event]
    struct TaskTimedOut has drop, store {
        client: address,
        task_id: vector<u8>,
        server: address,
        orchestrator: address,
        refund: u64
    }

    #[event]
    struct SettlementSkipped has drop, store { client: address, task_id: vector<u8>, server: address, reason: u64 }

    #[event]
    struct ArbiterChanged has drop, store { old: address, new: address }

    #[event]
    struct DisputeOpened has drop, store {
        client: address,
        task_id: vector<u8>,
        orchestrator: address,
        opener: address,
        bond: u64,
        evidence_hash: vector<u8>,
        act_by: u64
    }

    #[event]
    struct DisputeContested has drop, store {
        client: address,
        task_id: vector<u8>,
        orchestrator: address,
        answer_hash: vector<u8>,
        act_by: u64
    }

    #[event]
    struct DisputeClosed has drop, store {
        client: address,
        task_id: vector<u8>,
        orchestrator: address,
        status: String,
        bond_to: address
    }

    #[event]
    struct EquivocationReported has drop, store {
        client: address,
        task_id: vector<u8>,
        server: address,
        orchestrator: address,
        reporter: address,
        first_result: vector<u8>,
        second_result: vector<u8>
    }

    #[event]
    struct Slashed has drop, store {
        operator: address,
        client: address,
        task_id: vector<u8>,
        amount: u64,
        to_client: u64
    }

    // --- administration -------------------------------------------------------------------------------------------

    /// The publisher gets every office; it should hand them over to accounts that suit them.
    fun init_module(publisher: &signer) {
        let admin = signer::address_of(publisher);
        vaults::initialize(publisher, APT);
        move_to(
            publisher,
            Config {
                admin,
                pending_admin: option::none(),
                arbiter: admin,
                treasury: admin,
                asset: APT,
                params: Params {
                    reward: rewards::new_params(200, 150, 1, 2_000, 100, 500),
                    treasury_bps: 2_000,
                    max_delegate_bps: 9_500,
                    min_stake: 100_000_000,
                    longest_task_seconds: 3_600,
                    dispute_window_seconds: DAY_SECONDS,
                    unbonding_seconds: 7 * DAY_SECONDS,
                    withdrawal_seconds: 3_600,
                    dispute_bond: 10_000_000,
                    contest_seconds: DAY_SECONDS,
                    arbitration_seconds: 7 * DAY_SECONDS,
                    max_slash: 20_000_000
                },
                paused: false
            }
        );
        move_to(
            publisher,
            Registry {
                operators: table::new(),
                tasks: table::new(),
                nonces: table::new(),
                disputes: table::new(),
                slashes: table::new()
            }
        );
    }

    /// First step: nothing changes until `proposed` accepts, so that a mistyped address loses nothing.
    public entry fun propose_admin(admin: &signer, proposed: address) acquires Config {
        let config = governed(admin);
        config.pending_admin = option::some(proposed);
        event::emit(AdminProposed { admin: config.admin, proposed });
    }

    public entry fun accept_admin(proposed: &signer) acquires Config {
        let new = signer::address_of(proposed);
        let config = borrow_global_mut<Config>(@cactus_mesh);
        assert!(config.pending_admin == option::some(new), E_NOT_PENDING_ADMIN);
        let old = config.admin;
        config.admin = new;
        config.pending_admin = option::none();
        event::emit(AdminChanged { old, new });
    }

    public entry fun set_treasury(admin: &signer, treasury: address) acquires Config {
        let config = governed(admin);
        let old = config.treasury;
        config.treasury = treasury;
        event::emit(TreasuryChanged { old, new: treasury });
    }

    /// Name who decides contested disputes; it may be a court or a multisig account of its own.
    public entry fun set_arbiter(admin: &signer, arbiter: address) acquires Config {
        let config = governed(admin);
        let old = config.arbiter;
        config.arbiter = arbiter;
        event::emit(ArbiterChanged { old, new: arbiter });
    }

    /// All parameters at once.  Unbondings, withdrawals and disputes under way keep their times.
    public entry fun set_params(
        admin: &signer,
        base: u64,
        unit_price: u64,
        ms_price: u64,
        allowed_base_ms: u64,
        allowed_us_per_mflop: u64,
        fee_bps: u64,
        treasury_bps: u64,
        max_delegate_bps: u64,
        min_stake: u64,
        longest_task_seconds: u64,
        dispute_window_seconds: u64,
        unbonding_seconds: u64,
        withdrawal_seconds: u64,
        dispute_bond: u64,
        contest_seconds: u64,
        arbitration_seconds: u64,
        max_slash: u64
    ) acquires Config {
        let config = governed(admin);
        let params = Params {
            reward: rewards::new_params(
                base, unit_price, ms_price, allowed_base_ms, allowed_us_per_mflop, fee_bps
            ),
            treasury_bps,
            max_delegate_bps,
            min_stake,
            longest_task_seconds,
            dispute_window_seconds,
            unbonding_seconds,
            withdrawal_seconds,
            dispute_bond,
            contest_seconds,
            arbitration_seconds,
            max_slash
        };
        let values = values_of(&params);
        assert!(within_bounds(&values), E_PARAM_OUT_OF_BOUNDS);
        assert!(unbonding_seconds >= longest_task_seconds + dispute_window_seconds, E_PARAM_OUT_OF_BOUNDS);
        assert!(withdrawal_seconds >= longest_task_seconds, E_PARAM_OUT_OF_BOUNDS);
        config.params = params;
        event::emit(ParamsChanged { values });
    }

    /// A pause stops what comes in (register, deposit, stake, create), never what goes out or ends.
    public entry fun set_paused(admin: &signer, paused: bool) acquires Config {
        let config = governed(admin);
        config.paused = paused;
        event::emit(PausedChanged { paused });
    }

    inline fun governed(admin: &signer): &mut Config {
        let config = borrow_global_mut<Config>(@cactus_mesh);
        assert!(signer::address_of(admin) == config.admin, E_NOT_ADMIN);
        config
    }

    fun assert_running() acquires Config {
        assert!(!borrow_global<Config>(@cactus_mesh).paused, E_PAUSED);
    }

    fun values_of(params: &Params): vector<u64> {
        let values = rewards::values(&params.reward);
        vector::append(
            &mut values,
            vector[
                params.treasury_bps, params.max_delegate_bps, params.min_stake, params.longest_task_seconds,
                params.dispute_window_seconds, params.unbonding_seconds, params.withdrawal_seconds,
                params.dispute_bond, params.contest_seconds, params.arbitration_seconds, params.max_slash
            ]
        );
        values
    }

    fun within_bounds(values: &vector<u64>): bool {
        let (lowest, highest) = (LOWEST, HIGHEST);
        for (i in 0..vector::length(values)) {
            let value = *vector::borrow(values, i);
            if (value < *vector::borrow(&lowest, i) || value > *vector::borrow(&highest, i)) return false;
        };
        true
    }

    // --- servers --------------------------------------------------------------------------------------------------

    public entry fun register_server(server: &signer) acquires Config {
        assert_running();
        let account = signer::address_of(server);
        assert!(!exists<Server>(account), E_SERVER_EXISTS);
        move_to(
            server,
            Server {
                status: SERVER_PENDING,
                granted_by: option::none(),
                expires_at: 0,
                max_budget: 0,
                escrowed: 0
            }
        );
        event::emit(ServerRegistered { server: account });
    }

    /// Let `account` act until `expires_at`, holding at most `max_budget` octas in escrow.  Renews and restores too.
    public entry fun authorize_server(
        admin: &signer, account: address, expires_at: u64, max_budget: u64
    ) acquires Config, Server {
        let granted_by = governed(admin).admin;
        assert!(exists<Server>(account), E_NO_SERVER);
        assert!(expires_at > timestamp::now_seconds(), E_BAD_EXPIRY);
        let server = borrow_global_mut<Server>(account);
        server.status = SERVER_AUTHORISED;
        server.granted_by = option::some(granted_by);
        server.expires_at = expires_at;
        server.max_budget = max_budget;
        event::emit(ServerAuthorised { server: account, granted_by, expires_at, max_budget });
    }

    /// Its open tasks can then only time out, which refunds the clients.
    public entry fun revoke_server(admin: &signer, account: address) acquires Config, Server {
        let revoked_by = governed(admin).admin;
        assert!(exists<Server>(account), E_NO_SERVER);
        borrow_global_mut<Server>(account).status = SERVER_REVOKED;
        event::emit(ServerRevoked { server: account, revoked_by });
    }

    /// The signer's address, when it may act as a server now.
    fun authorised(server: &signer): address acquires Server {
        let account = signer::address_of(server);
        assert!(exists<Server>(account), E_NO_SERVER);
        let record = borrow_global<Server>(account);
        assert!(record.status == SERVER_AUTHORISED, E_SERVER_NOT_AUTHORISED);
        assert!(timestamp::now_seconds() < record.expires_at, E_SERVER_EXPIRED);
        account
    }

    // --- stakes ---------------------------------------------------------------------------------------------------

    /// The signer owns the new stake.  An operator key that is not its own must have signed an `OperatorConsent`, so
    /// that nobody can register (and thereby block) the key of somebody else.
    public entry fun register_orchestrator(
        owner: &signer, public_key: vector<u8>, operator_signature: vector<u8>, stake: u64
    ) acquires Config, Registry {
        assert_running();
        let account = signer::address_of(owner);
        let operator = new_operator(account, public_key, operator_signature);
        assert!(stake >= borrow_global<Config>(@cactus_mesh).params.min_stake, E_STAKE_TOO_LOW);
        assert!(vaults::has_coins(account, stake), E_INSUFFICIENT_COINS);
        let vault_signer = vaults::open_for_stake(operator);
        let vault = signer::address_of(&vault_signer);
        vaults::lock(owner, vault, stake);
        move_to(
            &vault_signer,
            Orchestrator {
                owner: account,
                public_key,
                vault,
                stake,
                open_disputes: 0,
                bonds: 0,
                unbonding: vector[],
                metrics: Metrics {
                    completed: 0,
                    failed: 0,
                    timed_out: 0,
                    slashed: 0,
                    compute_ms: 0,
                    quality_sum: 0
                }
            }
        );
        let registry = borrow_global_mut<Registry>(@cactus_mesh);
        table::add(&mut registry.operators, operator, Seat { vault, current: true });
        event::emit(OrchestratorRegistered { operator, owner: account, public_key, stake });
    }

    public entry fun add_stake(owner: &signer, operator: address, amount: u64) acquires Config, Orchestrator, Registry {
        assert_running();
        let vault = owned_vault(owner, operator);
        assert!(amount > 0, E_ZERO_AMOUNT);
        assert!(vaults::has_coins(signer::address_of(owner), amount), E_INSUFFICIENT_COINS);
        vaults::lock(owner, vault, amount);
        let orchestrator = borrow_global_mut<Orchestrator>(vault);
        orchestrator.stake += amount;
        event::emit(StakeAdded { operator, amount });
    }

    /// Begin to unbond: the stake stops counting now, can be slashed all along, and leaves after unbonding_seconds.
    public entry fun request_unstake(
        owner: &signer, operator: address, amount: u64
    ) acquires Config, Orchestrator, Registry {
        let orchestrator = borrow_global_mut<Orchestrator>(owned_vault(owner, operator));
        assert!(amount > 0, E_ZERO_AMOUNT);
        assert!(amount <= orchestrator.stake, E_INSUFFICIENT_STAKE);
        assert!(vector::length(&orchestrator.unbonding) < MAX_PENDING, E_TOO_MANY_UNBONDINGS);
        let release_at = timestamp::now_seconds() + borrow_global<Config>(@cactus_mesh).params.unbonding_seconds;
        orchestrator.stake -= amount;
        vector::push_back(&mut orchestrator.unbonding, Due { amount, release_at });
        event::emit(UnstakeRequested { operator, amount, release_at });
    }

    /// Everything that is unbonding becomes active stake again.
    public entry fun cancel_unstake(owner: &signer, operator: address) acquires Orchestrator, Registry {
        let orchestrator = borrow_global_mut<Orchestrator>(owned_vault(owner, operator));
        assert!(!vector::is_empty(&orchestrator.unbonding), E_NOTHING_UNBONDING);
        let amount = sum(&orchestrator.unbonding);
        orchestrator.stake += amount;
        orchestrator.unbonding = vector[];
        event::emit(UnstakeCancelled { operator, amount });
    }

    /// Pay the owner everything whose unbonding is over.
    public entry fun withdraw_stake(owner: &signer, operator: address) acquires Orchestrator, Registry {
        let vault = owned_vault(owner, operator);
        let orchestrator = borrow_global_mut<Orchestrator>(vault);
        assert!(orchestrator.open_disputes == 0, E_FROZEN);
        let (amount, waiting) = due(&orchestrator.unbonding);
        assert!(amount > 0, E_NO_STAKE_DUE);
        vaults::release(vault, orchestrator.owner, amount);
        orchestrator.unbonding = waiting;
        event::emit(StakeWithdrawn { operator, owner: orchestrator.owner, amount });
    }

    /// Replace the operator key, for instance after a theft.  Claims and tasks of the old key can't be paid any more,
    /// the old key can never be registered again, and the stake goes on answering for what it signed.
    public entry fun set_operator(
        owner: &signer, operator: address, public_key: vector<u8>, operator_signature: vector<u8>
    ) acquires Orchestrator, Registry {
        let vault = owned_vault(owner, operator);
        assert!(borrow_global<Orchestrator>(vault).open_disputes == 0, E_FROZEN);
        let new = new_operator(signer::address_of(owner), public_key, operator_signature);
        borrow_global_mut<Orchestrator>(vault).public_key = public_key;
        let registry = borrow_global_mut<Registry>(@cactus_mesh);
        table::borrow_mut(&mut registry.operators, operator).current = false;
        table::add(&mut registry.operators, new, Seat { vault, current: true });
        event::emit(OperatorChanged { old: operator, new, public_key });
    }

    /// The address of a key that may become an operator of `owner`: unused, and willing.
    fun new_operator(owner: address, public_key: vector<u8>, signature: vector<u8>): address acquires Registry {
        assert!(signed::is_public_key(&public_key), E_BAD_PUBLIC_KEY);
        let operator = signed::account_of(public_key);
        assert!(
            !table::contains(&borrow_global<Registry>(@cactus_mesh).operators, operator), E_ORCHESTRATOR_EXISTS
        );
        if (operator != owner) { // else the signer has just shown that it holds the key
            assert!(
                signed::verifies(public_key, signed::operator_bytes(owner, operator), signature),
                E_BAD_OPERATOR_SIGNATURE
            );
        };
        operator
    }

    fun is_operator(operator: address): bool acquires Registry {
        let registry = borrow_global<Registry>(@cactus_mesh);
        table::contains(&registry.operators, operator) && table::borrow(&registry.operators, operator).current
    }

    /// The vault of a present operator's stake.
    fun stake_of(operator: address): address acquires Registry {
        assert!(is_operator(operator), E_NO_ORCHESTRATOR);
        table::borrow(&borrow_global<Registry>(@cactus_mesh).operators, operator).vault
    }

    /// The vault of the stake that answers for what `operator` has signed, also after it was replaced.
    fun liable_stake_of(operator: address): address acquires Registry {
        let registry = borrow_global<Registry>(@cactus_mesh);
        assert!(table::contains(&registry.operators, operator), E_NO_ORCHESTRATOR);
        table::borrow(&registry.operators, operator).vault
    }

    fun owned_vault(owner: &signer, operator: address): address acquires Orchestrator, Registry {
        let vault = stake_of(operator);
        assert!(borrow_global<Orchestrator>(vault).owner == signer::address_of(owner), E_NOT_OWNER);
        vault
    }

    /// Everything that can still be slashed.
    fun bonded(orchestrator: &Orchestrator): u64 {
        orchestrator.stake + sum(&orchestrator.unbonding)
    }

    /// What of it can't have left before `until`.
    fun bonded_until(orchestrator: &Orchestrator, until: u64): u64 {
        let total = orchestrator.stake;
        for (i in 0..vector::length(&orchestrator.unbonding)) {
            let entry = vector::borrow(&orchestrator.unbonding, i);
            if (entry.release_at >= until) total += entry.amount;
        };
        total
    }

    fun sum(dues: &vector<Due>): u64 {
        let total = 0;
        for (i in 0..vector::length(dues)) {
            total += vector::borrow(dues, i).amount;
        };
        total
    }

    /// How much is due now, and what still waits.
    fun due(dues: &vector<Due>): (u64, vector<Due>) {
        let (amount, waiting, now) = (0, vector[], timestamp::now_seconds());
        for (i in 0..vector::length(dues)) {
            let entry = *vector::borrow(dues, i);
            if (entry.release_at <= now) {
                amount += entry.amount;
            } else {
                vector::push_back(&mut waiting, entry);
            };
        };
        (amount, waiting)
    }

    // --- clients --------------------------------------------------------------------------------------------------

    /// Name the key that signs the signer's consents.  May be repeated to replace it; old consents then fail.
    public entry fun register_client(client: &signer, public_key: vector<u8>) acquires Client, Config {
        assert_running();
        assert!(signed::is_public_key(&public_key), E_BAD_PUBLIC_KEY);
        let account = signer::address_of(client);
        let vault = vaults::of_client(account);
        if (exists<Client>(vault)) {
            borrow_global_mut<Client>(vault).public_key = public_key;
        } else {
            new_client(account, public_key);
        };
        event::emit(ClientRegistered { client: account, public_key });
    }

    /// Add the signer's coins to the deposit of the client whose account address `public_key` makes.
    ///
    /// The signer may be that client or anybody else.  A first deposit registers the client under that key, which needs
    /// no signature of its own because nobody else's key makes the same address.
    public entry fun deposit(payer: &signer, public_key: vector<u8>, amount: u64) acquires Client, Config {
        assert_running();
        assert!(signed::is_public_key(&public_key), E_BAD_PUBLIC_KEY);
        assert!(amount > 0, E_ZERO_AMOUNT);
        let payer_account = signer::address_of(payer);
        assert!(vaults::has_coins(payer_account, amount), E_INSUFFICIENT_COINS);
        let account = signed::account_of(public_key);
        let vault = vaults::of_client(account);
        if (!exists<Client>(vault)) {
            new_client(account, public_key);
            event::emit(ClientRegistered { client: account, public_key });
        };
        vaults::lock(payer, vault, amount);
        let client = borrow_global_mut<Client>(vault);
        client.deposit += amount;
        event::emit(Deposited { client: account, payer: payer_account, amount });
    }

    fun new_client(account: address, public_key: vector<u8>) {
        let vault_signer = vaults::open_for_client(account);
        let vault = signer::address_of(&vault_signer);
        move_to(
            &vault_signer,
            Client {
                public_key,
                vault,
                deposit: 0,
                escrowed: 0,
                withdrawals: vector[]
            }
        );
    }

    /// Take `amount` out of what consents can spend; it leaves after withdrawal_seconds.
    public entry fun request_withdrawal(client: &signer, amount: u64) acquires Client, Config {
        let account = signer::address_of(client);
        let record = borrow_global_mut<Client>(vault_of(account));
        assert!(amount > 0, E_ZERO_AMOUNT);
        assert!(amount <= record.deposit, E_INSUFFICIENT_DEPOSIT);
        assert!(vector::length(&record.withdrawals) < MAX_PENDING, E_TOO_MANY_WITHDRAWALS);
        let release_at = timestamp::now_seconds() + borrow_global<Config>(@cactus_mesh).params.withdrawal_seconds;
        record.deposit -= amount;
        vector::push_back(&mut record.withdrawals, Due { amount, release_at });
        event::emit(WithdrawalRequested { client: account, amount, release_at });
    }

    /// Pay the client every withdrawal whose wait is over.
    public entry fun withdraw(client: &signer) acquires Client {
        let account = signer::address_of(client);
        let vault = vault_of(account);
        let record = borrow_global_mut<Client>(vault);
        let (amount, waiting) = due(&record.withdrawals);
        assert!(amount > 0, E_NO_WITHDRAWAL_DUE);
        vaults::release(vault, account, amount);
        record.withdrawals = waiting;
        event::emit(Withdrawn { client: account, amount });
    }

    /// The vault of a registered client.
    fun vault_of(account: address): address {
        let vault = vaults::of_client(account);
        assert!(exists<Client>(vault), E_NO_CLIENT);
        vault
    }

    // --- tasks ----------------------------------------------------------------------------------------------------

    /// Move `max_price` from the client's deposit into escrow for `orchestrator`.
    ///
    /// After `accept_by` a belated transaction creates nothing; after `done_by` anybody may time the task out.
    public entry fun create_task(
        server: &signer,
        client: address,
        task_id: vector<u8>,
        nonce: u64,
        max_price: u64,
        expires_at: u64,
        consent_signature: vector<u8>,
        orchestrator: address,
        accept_by: u64,
        done_by: u64
    ) acquires Client, Config, Orchestrator, Registry, Server {
        assert_running();
        let account = authorised(server);
        let params = &borrow_global<Config>(@cactus_mesh).params;
        let now = timestamp::now_seconds();
        assert!(
            now <= accept_by && accept_by <= done_by && done_by <= now + params.longest_task_seconds,
            E_BAD_DEADLINES
        );
        assert_takes_tasks(orchestrator, params.min_stake);
        let consent = Consent { client, task_id, nonce, max_price, expires_at, signature: consent_signature };
        let refused = consent_refused(account, &consent);
        assert!(refused == NO_REASON, refused);

        let record = borrow_global_mut<Client>(vaults::of_client(client));
        record.deposit -= max_price;
        record.escrowed += max_price;
        let server_record = borrow_global_mut<Server>(account);
        server_record.escrowed += max_price;
        let registry = borrow_global_mut<Registry>(@cactus_mesh);
        table::add(&mut registry.nonces, NonceKey { client, nonce }, true);
        table::add(
            &mut registry.tasks,
            TaskKey { client, task_id },
            Task {
                server: account,
                orchestrator,
                status: TASK_CREATED,
                max_price,
                done_by,
                ended_at: 0,
                split: option::none(),
                result_hash: vector[]
            }
        );
        event::emit(TaskCreated { client, task_id, server: account, orchestrator, max_price, done_by });
    }

    /// The server's word that the orchestrator did not deliver and another goes on: the escrow stays as it is, for that one.
    ///
    /// A failure on the record of the one who was lost.  Until `done_by`, which does not move.
    public entry fun reassign_task(
        server: &signer,
        client: address,
        task_id: vector<u8>,
        orchestrator: address
    ) acquires Config, Orchestrator, Registry, Server {
        assert_running();
        let account = authorised(server);
        let key = TaskKey { client, task_id };
        let task = open_task(key);
        assert!(task.server == account, E_NOT_TASK_SERVER);
        assert!(task.orchestrator != orchestrator, E_SAME_ORCHESTRATOR);
        assert!(timestamp::now_seconds() <= task.done_by, E_BAD_DEADLINES);
        assert_takes_tasks(orchestrator, borrow_global<Config>(@cactus_mesh).params.min_stake);
        table::borrow_mut(&mut borrow_global_mut<Registry>(@cactus_mesh).tasks, key).orchestrator = orchestrator;
        let metrics = &mut borrow_global_mut<Orchestrator>(liable_stake_of(task.orchestrator)).metrics;
        metrics.failed += 1;
        event::emit(TaskReassigned { client, task_id, server: account, lost: task.orchestrator, orchestrator });
    }

    /// Only a stake that is large enough, and that nobody disputes, answers for new work.
    fun assert_takes_tasks(orchestrator: address, min_stake: u64) acquires Orchestrator, Registry {
        let worker = borrow_global<Orchestrator>(stake_of(orchestrator));
        assert!(worker.stake >= min_stake, E_NOT_STAKED);
        assert!(worker.open_disputes == 0, E_FROZEN);
    }

    /// Pay the assigned orchestrator from escrow on its signed claim.  Late is fine until somebody times it out.
    public entry fun complete_task(
        server: &signer,
        client: address,
        task_id: vector<u8>,
        delegate: address,
        delegate_bps: u64,
        model_digest: vector<u8>,
        complexity: u64,
        compute_ms: u64,
        price: u64,
        result_hash: vector<u8>,
        claim_signature: vector<u8>,
        quality_ppm: u64
    ) acquires Client, Config, Orchestrator, Registry, Server {
        let account = authorised(server);
        let key = TaskKey { client, task_id };
        let task = open_task(key);
        assert!(task.server == account, E_NOT_TASK_SERVER);
        let claim = Claim {
            orchestrator: task.orchestrator,
            delegate,
            delegate_bps,
            model_digest,
            complexity,
            compute_ms,
            price,
            result_hash,
            signature: claim_signature,
            quality_ppm
        };
        let refused = claim_refused(account, &key, &claim);
        assert!(refused == NO_REASON, refused);
        complete(account, key, &claim, task.max_price);
    }

    /// The server's word that the orchestrator did not deliver: refund, and a failure on its record.
    public entry fun fail_task(
        server: &signer, client: address, task_id: vector<u8>
    ) acquires Client, Orchestrator, Registry, Server {
        let account = authorised(server);
        let key = TaskKey { client, task_id };
        let task = open_task(key);
        assert!(task.server == account, E_NOT_TASK_SERVER);
        let metrics = give_back(key, TASK_FAILED);
        metrics.failed += 1;
        event::emit(
            TaskFailed { client, task_id, server: account, orchestrator: task.orchestrator, refund: task.max_price }
        );
    }

    /// Anybody may end a task after done_by, so that a vanished server can't keep a client's money.
    public entry fun timeout_task(
        _anybody: &signer, client: address, task_id: vector<u8>
    ) acquires Client, Orchestrator, Registry, Server {
        let key = TaskKey { client, task_id };
        let task = open_task(key);
        assert!(timestamp::now_seconds() > task.done_by, E_TOO_EARLY);
        let metrics = give_back(key, TASK_TIMED_OUT);
        metrics.timed_out += 1;
        event::emit(
            TaskTimedOut {
                client,
                task_id,
                server: task.server,
                orchestrator: task.orchestrator,
                refund: task.max_price
            }
        );
    }

    /// Pay up to `MAX_BATCH` finished tasks, each from its escrow if it has one, else straight from the deposit.
    ///
    /// One entry of each column is one item.  An item that can't be paid is skipped with an event that says why, and
    /// aborts nothing.
    public entry fun settle_batch(
        server: &signer,
        clients: vector<address>,
        task_ids: vector<vector<u8>>,
        nonces: vector<u64>,
        max_prices: vector<u64>,
        expires_at: vector<u64>,
        consent_signatures: vector<vector<u8>>,
        orchestrators: vector<address>,
        delegates: vector<address>,
        delegate_bps: vector<u64>,
        model_digests: vector<vector<u8>>,
        complexities: vector<u64>,
        compute_ms: vector<u64>,
        prices: vector<u64>,
        result_hashes: vector<vector<u8>>,
        claim_signatures: vector<vector<u8>>,
        qualities_ppm: vector<u64>
    ) acquires Client, Config, Orchestrator, Registry, Server {
        let account = authorised(server);
        let count = vector::length(&clients);
        assert!(count > 0 && count <= MAX_BATCH, E_BAD_BATCH);
        assert!(
            vector::length(&task_ids) == count
                && vector::length(&nonces) == count
                && vector::length(&max_prices) == count
                && vector::length(&expires_at) == count
                && vector::length(&consent_signatures) == count
                && vector::length(&orchestrators) == count
                && vector::length(&qualities_ppm) == count,
            E_BAD_BATCH
        );
        assert!(
            are_claims(
                count, &delegates, &delegate_bps, &model_digests, &complexities, &compute_ms, &prices,
                &result_hashes, &claim_signatures
            ),
            E_BAD_BATCH
        );
        for (i in 0..count) {
            let consent = Consent {
                client: *vector::borrow(&clients, i),
                task_id: *vector::borrow(&task_ids, i),
                nonce: *vector::borrow(&nonces, i),
                max_price: *vector::borrow(&max_prices, i),
                expires_at: *vector::borrow(&expires_at, i),
                signature: *vector::borrow(&consent_signatures, i)
            };
            let claim = Claim {
                orchestrator: *vector::borrow(&orchestrators, i),
                delegate: *vector::borrow(&delegates, i),
                delegate_bps: *vector::borrow(&delegate_bps, i),
                model_digest: *vector::borrow(&model_digests, i),
                complexity: *vector::borrow(&complexities, i),
                compute_ms: *vector::borrow(&compute_ms, i),
                price: *vector::borrow(&prices, i),
                result_hash: *vector::borrow(&result_hashes, i),
                signature: *vector::borrow(&claim_signatures, i),
                quality_ppm: *vector::borrow(&qualities_ppm, i)
            };
            settle_one(account, &consent, &claim);
        };
    }

    fun are_claims(
        count: u64,
        delegates: &vector<address>,
        delegate_bps: &vector<u64>,
        model_digests: &vector<vector<u8>>,
        complexities: &vector<u64>,
        compute_ms: &vector<u64>,
        prices: &vector<u64>,
        result_hashes: &vector<vector<u8>>,
        claim_signatures: &vector<vector<u8>>
    ): bool {
        vector::length(delegates) == count
            && vector::length(delegate_bps) == count
            && vector::length(model_digests) == count
            && vector::length(complexities) == count
            && vector::length(compute_ms) == count
            && vector::length(prices) == count
            && vector::length(result_hashes) == count
            && vector::length(claim_signatures) == count
    }

    fun settle_one(
        server: address, consent: &Consent, claim: &Claim
    ) acquires Client, Config, Orchestrator, Registry, Server {
        let key = TaskKey { client: consent.client, task_id: consent.task_id };
        let in_escrow = table::contains(&borrow_global<Registry>(@cactus_mesh).tasks, key);
        let refused = if (in_escrow) escrowed_refused(server, &key, claim) else direct_refused(server, consent, claim);
        if (refused != NO_REASON) {
            event::emit(
                SettlementSkipped { client: consent.client, task_id: consent.task_id, server, reason: refused }
            );
        } else if (in_escrow) {
            let max_price = table::borrow(&borrow_global<Registry>(@cactus_mesh).tasks, key).max_price;
            complete(server, key, claim, max_price);
        } else {
            pay_from_deposit(server, key, consent, claim);
        };
    }

    /// Unlike a new task, a finished one is paid while the stake is unbonding or frozen: both can still be slashed.  Only
    /// what stays for this task's dispute window counts, so that nobody is paid and gone before a doubt can be raised.
    fun direct_refused(
        server: address, consent: &Consent, claim: &Claim
    ): u64 acquires Client, Config, Orchestrator, Registry, Server {
        let refused = consent_refused(server, consent);
        if (refused != NO_REASON) return refused;
        let key = TaskKey { client: consent.client, task_id: consent.task_id };
        let refused = claim_refused(server, &key, claim);
        if (refused != NO_REASON) return refused;
        let worker = borrow_global<Orchestrator>(stake_of(claim.orchestrator));
        let params = &borrow_global<Config>(@cactus_mesh).params;
        let until = timestamp::now_seconds() + params.dispute_window_seconds;
        if (bonded_until(worker, until) < params.min_stake) return E_NOT_STAKED;
        NO_REASON
    }

    /// The consent was spent when the escrow was made; of it only client and task id matter here.
    fun escrowed_refused(
        server: address, key: &TaskKey, claim: &Claim
    ): u64 acquires Config, Orchestrator, Registry {
        let task = *table::borrow(&borrow_global<Registry>(@cactus_mesh).tasks, *key);
        if (task.server != server) return if (task.status == TASK_CREATED) E_NOT_TASK_SERVER else E_TASK_EXISTS;
        if (task.status == TASK_COMPLETED) return E_ALREADY_SETTLED;
        if (task.status != TASK_CREATED) return E_TASK_CLOSED;
        if (task.orchestrator != claim.orchestrator) return E_WRONG_ORCHESTRATOR;
        claim_refused(server, key, claim)
    }

    fun open_task(key: TaskKey): Task acquires Registry {
        let registry = borrow_global<Registry>(@cactus_mesh);
        assert!(table::contains(&registry.tasks, key), E_NO_TASK);
        let task = *table::borrow(&registry.tasks, key);
        assert!(task.status != TASK_COMPLETED, E_ALREADY_SETTLED);
        assert!(task.status == TASK_CREATED, E_TASK_CLOSED);
        task
    }

    /// May this server promise this much of the client's deposit?  The code that stands in the way, or `NO_REASON`.
    fun consent_refused(server: address, consent: &Consent): u64 acquires Client, Registry, Server {
        if (vector::length(&consent.task_id) != TASK_ID_BYTES) return E_BAD_LENGTH;
        let vault = vaults::of_client(consent.client);
        if (!exists<Client>(vault)) return E_NO_CLIENT;
        let registry = borrow_global<Registry>(@cactus_mesh);
        if (table::contains(&registry.tasks, TaskKey { client: consent.client, task_id: consent.task_id })) {
            return E_TASK_EXISTS
        };
        if (timestamp::now_seconds() > consent.expires_at) return E_CONSENT_EXPIRED;
        if (table::contains(&registry.nonces, NonceKey { client: consent.client, nonce: consent.nonce })) {
            return E_NONCE_USED
        };
        let client = borrow_global<Client>(vault);
        if (consent.max_price > client.deposit) return E_INSUFFICIENT_DEPOSIT;
        let record = borrow_global<Server>(server);
        if ((record.escrowed as u128) + (consent.max_price as u128) > (record.max_budget as u128)) {
            return E_OVER_BUDGET
        };
        let message = signed::consent_bytes(
            consent.client, server, consent.task_id, consent.nonce, consent.max_price, consent.expires_at
        );
        if (signed::verifies(client.public_key, message, consent.signature)) NO_REASON else E_BAD_CONSENT_SIGNATURE
    }

    /// Has the orchestrator signed for this task, in numbers that the contract computes with?
    fun claim_refused(
        server: address, key: &TaskKey, claim: &Claim
    ): u64 acquires Config, Orchestrator, Registry {
        if (vector::length(&claim.model_digest) != HASH_BYTES
            || vector::length(&claim.result_hash) != HASH_BYTES) return E_BAD_LENGTH;
        if (!is_operator(claim.orchestrator)) return E_NO_ORCHESTRATOR;
        let params = &borrow_global<Config>(@cactus_mesh).params;
        if (claim.complexity > MAX_COMPLEXITY_MFLOP
            || claim.compute_ms > params.longest_task_seconds * 1_000
            || claim.quality_ppm > PPM) return E_CLAIM_OUT_OF_BOUNDS;
        if (!delegate_fits(claim, params.max_delegate_bps)) return E_BAD_DELEGATE;
        let message = claim_message(server, key, claim.orchestrator, claim);
        let public_key = borrow_global<Orchestrator>(stake_of(claim.orchestrator)).public_key;
        if (signed::verifies(public_key, message, claim.signature)) NO_REASON else E_BAD_CLAIM_SIGNATURE
    }

    fun claim_message(server: address, key: &TaskKey, orchestrator: address, claim: &Claim): vector<u8> {
        signed::claim_bytes(
            key.client,
            server,
            orchestrator,
            claim.delegate,
            claim.delegate_bps,
            key.task_id,
            claim.model_digest,
            claim.complexity,
            claim.compute_ms,
            claim.price,
            claim.result_hash
        )
    }

    fun delegate_fits(claim: &Claim, max_delegate_bps: u64): bool acquires Registry {
        if (claim.delegate == NOBODY) return claim.delegate_bps == 0;
        is_operator(claim.delegate)
            && claim.delegate != claim.orchestrator
            && claim.delegate_bps <= max_delegate_bps
    }

    fun complete(
        server: address, key: TaskKey, claim: &Claim, max_price: u64
    ) acquires Client, Config, Orchestrator, Registry, Server {
        let split = pay(server, &key, claim, max_price);
        release_escrow(&key, server, max_price, rewards::refund(&split));
        let task = table::borrow_mut(&mut borrow_global_mut<Registry>(@cactus_mesh).tasks, key);
        task.status = TASK_COMPLETED;
        task.ended_at = timestamp::now_seconds();
        task.split = option::some(split);
        task.result_hash = claim.result_hash;
    }

    fun pay_from_deposit(
        server: address, key: TaskKey, consent: &Consent, claim: &Claim
    ) acquires Client, Config, Orchestrator, Registry {
        let split = pay(server, &key, claim, consent.max_price);
        let client = borrow_global_mut<Client>(vaults::of_client(key.client));
        client.deposit -= rewards::paid(&split);
        let now = timestamp::now_seconds();
        let registry = borrow_global_mut<Registry>(@cactus_mesh);
        table::add(&mut registry.nonces, NonceKey { client: key.client, nonce: consent.nonce }, true);
        table::add(
            &mut registry.tasks,
            key,
            Task {
                server,
                orchestrator: claim.orchestrator,
                status: TASK_COMPLETED,
                max_price: consent.max_price,
                done_by: now,
                ended_at: now,
                split: option::some(split),
                result_hash: claim.result_hash
            }
        );
    }

    /// Move the money of a good claim out of the client's vault.  The caller accounts for it in the client's record.
    ///
    /// Pay goes to owners, never to operator keys: a stolen operator key earns its thief nothing.
    fun pay(
        server: address, key: &TaskKey, claim: &Claim, max_price: u64
    ): Split acquires Config, Orchestrator, Registry {
        let config = borrow_global<Config>(@cactus_mesh);
        let orchestrator = borrow_global<Orchestrator>(stake_of(claim.orchestrator));
        let formula = rewards::reward(
            &config.params.reward, max_price, claim.complexity, claim.compute_ms, success_of(&orchestrator.metrics)
        );
        let gross = if (claim.price < formula) claim.price else formula;
        let split = rewards::split(gross, max_price, rewards::fee_bps(&config.params.reward), claim.delegate_bps);

        let source = vaults::of_client(key.client);
        vaults::release(source, orchestrator.owner, rewards::to_orchestrator(&split));
        if (claim.delegate != NOBODY) {
            let delegate = borrow_global<Orchestrator>(stake_of(claim.delegate));
            vaults::release(source, delegate.owner, rewards::to_delegate(&split));
        };
        let to_treasury = rewards::share(rewards::fee(&split), config.params.treasury_bps);
        vaults::release(source, config.treasury, to_treasury);
        vaults::release(source, server, rewards::fee(&split) - to_treasury);

        let metrics = &mut borrow_global_mut<Orchestrator>(stake_of(claim.orchestrator)).metrics;
        metrics.completed += 1;
        metrics.compute_ms += claim.compute_ms;
        metrics.quality_sum += claim.quality_ppm;
        event::emit(
            TaskCompleted {
                client: key.client,
                task_id: key.task_id,
                server,
                orchestrator: claim.orchestrator,
                delegate: claim.delegate,
                max_price,
                payout: rewards::to_orchestrator(&split),
                delegate_payout: rewards::to_delegate(&split),
                fee: rewards::fee(&split),
                refund: rewards::refund(&split),
                complexity: claim.complexity,
                compute_ms: claim.compute_ms,
                quality_ppm: claim.quality_ppm,
                model_digest: claim.model_digest,
                result_hash: claim.result_hash
            }
        );
        split
    }

    /// Close the escrow of a task, returning `back` of it to the client's deposit.
    fun release_escrow(key: &TaskKey, server: address, max_price: u64, back: u64) acquires Client, Server {
        let client = borrow_global_mut<Client>(vaults::of_client(key.client));
        client.escrowed -= max_price;
        client.deposit += back;
        let record = borrow_global_mut<Server>(server);
        record.escrowed -= max_price;
    }

    /// Refund a task that came to nothing; the metrics of who answers for it.
    inline fun give_back(key: TaskKey, status: u8): &mut Metrics {
        let task = table::borrow_mut(&mut borrow_global_mut<Registry>(@cactus_mesh).tasks, key);
        task.status = status;
        task.ended_at = timestamp::now_seconds();
        let (server, orchestrator, max_price) = (task.server, task.orchestrator, task.max_price);
        release_escrow(&key, server, max_price, max_price);
        // a replaced operator key leaves the blame with its stake
        &mut borrow_global_mut<Orchestrator>(liable_stake_of(orchestrator)).metrics
    }

    fun success_of(metrics: &Metrics): u64 {
        rewards::success_ppm(metrics.completed, metrics.failed + metrics.timed_out)
    }

    // --- disputes -------------------------------------------------------------------------------------------------

    /// The task's client or server doubts it, and puts down a bond.  The stake is frozen until the decision.
    public entry fun open_dispute(
        opener: &signer, client: address, task_id: vector<u8>, evidence_hash: vector<u8>
    ) acquires Config, Orchestrator, Registry {
        let account = signer::address_of(opener);
        let key = TaskKey { client, task_id };
        let params = borrow_global<Config>(@cactus_mesh).params;
        let now = timestamp::now_seconds();
        let registry = borrow_global<Registry>(@cactus_mesh);
        assert!(table::contains(&registry.tasks, key), E_NO_TASK);
        let task = *table::borrow(&registry.tasks, key);
        assert!(vector::length(&evidence_hash) == HASH_BYTES, E_BAD_LENGTH);
        assert!(account == client || account == task.server, E_NOT_TASK_PARTY);
        assert!(task.status == TASK_COMPLETED, E_NOT_DISPUTABLE);
        assert!(!table::contains(&registry.disputes, key), E_DISPUTE_EXISTS);
        assert!(now <= task.ended_at + params.dispute_window_seconds, E_DISPUTE_TOO_LATE);
        let incident = SlashKey { operator: task.orchestrator, client, task_id };
        assert!(!table::contains(&registry.slashes, incident), E_ALREADY_SLASHED);
        assert!(vaults::has_coins(account, params.dispute_bond), E_INSUFFICIENT_COINS);

        let vault = liable_stake_of(task.orchestrator);
        vaults::lock(opener, vault, params.dispute_bond);
        let orchestrator = borrow_global_mut<Orchestrator>(vault);
        orchestrator.open_disputes += 1;
        orchestrator.bonds += params.dispute_bond;
        let act_by = now + params.contest_seconds;
        table::add(
            &mut borrow_global_mut<Registry>(@cactus_mesh).disputes,
            key,
            Dispute {
                orchestrator: task.orchestrator,
                opener: account,
                bond: params.dispute_bond,
                evidence_hash,
                answer_hash: vector[],
                opened_at: now,
                act_by,
                status: DISPUTE_OPEN
            }
        );
        event::emit(
            DisputeOpened {
                client,
                task_id,
                orchestrator: task.orchestrator,
                opener: account,
                bond: params.dispute_bond,
                evidence_hash,
                act_by
            }
        );
    }

    /// The owner of the stake answers in time, so that the arbiter has to decide.
    public entry fun contest_dispute(
        owner: &signer, client: address, task_id: vector<u8>, answer_hash: vector<u8>
    ) acquires Config, Orchestrator, Registry {
        let key = TaskKey { client, task_id };
        let dispute = dispute_of(key);
        let vault = liable_stake_of(dispute.orchestrator);
        assert!(borrow_global<Orchestrator>(vault).owner == signer::address_of(owner), E_NOT_OWNER);
        assert!(vector::length(&answer_hash) == HASH_BYTES, E_BAD_LENGTH);
        assert!(dispute.status == DISPUTE_OPEN, E_WRONG_DISPUTE_STATUS);
        let now = timestamp::now_seconds();
        assert!(now <= dispute.act_by, E_CONTEST_TOO_LATE);
        let act_by = now + borrow_global<Config>(@cactus_mesh).params.arbitration_seconds;
        let record = table::borrow_mut(&mut borrow_global_mut<Registry>(@cactus_mesh).disputes, key);
        record.status = DISPUTE_CONTESTED;
        record.answer_hash = answer_hash;
        record.act_by = act_by;
        event::emit(DisputeContested { client, task_id, orchestrator: dispute.orchestrator, answer_hash, act_by });
    }

    /// The arbiter decides a contested dispute.  A dismissed one costs the opener its bond, for the owner's trouble.
    public entry fun resolve_dispute(
        arbiter: &signer, client: address, task_id: vector<u8>, upheld: bool
    ) acquires Client, Config, Orchestrator, Registry {
        assert!(
            signer::address_of(arbiter) == borrow_global<Config>(@cactus_mesh).arbiter, E_NOT_ARBITER
        );
        let key = TaskKey { client, task_id };
        assert!(dispute_of(key).status == DISPUTE_CONTESTED, E_WRONG_DISPUTE_STATUS);
        close(key, if (upheld) DISPUTE_UPHELD else DISPUTE_DISMISSED);
    }

    /// Anybody, after the deadline: an uncontested dispute is upheld, one that the arbiter left undecided lapses.
    public entry fun finalize_dispute(
        _anybody: &signer, client: address, task_id: vector<u8>
    ) acquires Client, Config, Orchestrator, Registry {
        let key = TaskKey { client, task_id };
        let dispute = dispute_of(key);
        assert!(
            dispute.status == DISPUTE_OPEN || dispute.status == DISPUTE_CONTESTED, E_WRONG_DISPUTE_STATUS
        );
        assert!(timestamp::now_seconds() > dispute.act_by, E_TOO_EARLY);
        close(key, if (dispute.status == DISPUTE_OPEN) DISPUTE_UPHELD else DISPUTE_LAPSED);
    }

    fun dispute_of(key: TaskKey): Dispute acquires Registry {
        let registry = borrow_global<Registry>(@cactus_mesh);
        assert!(table::contains(&registry.disputes, key), E_NO_DISPUTE);
        *table::borrow(&registry.disputes, key)
    }

    fun close(key: TaskKey, status: u8) acquires Client, Config, Orchestrator, Registry {
        let dispute = dispute_of(key);
        let vault = liable_stake_of(dispute.orchestrator);
        let orchestrator = borrow_global_mut<Orchestrator>(vault);
        orchestrator.open_disputes -= 1;
        orchestrator.bonds -= dispute.bond;
        let bond_to = if (status == DISPUTE_DISMISSED) orchestrator.owner else dispute.opener;
        vaults::release(vault, bond_to, dispute.bond);
        let registry = borrow_global_mut<Registry>(@cactus_mesh);
        table::borrow_mut(&mut registry.disputes, key).status = status;
        event::emit(
            DisputeClosed {
                client: key.client,
                task_id: key.task_id,
                orchestrator: dispute.orchestrator,
                status: dispute_status(status),
                bond_to
            }
        );
        let incident = SlashKey { operator: dispute.orchestrator, client: key.client, task_id: key.task_id };
        if (status == DISPUTE_UPHELD && !table::contains(&registry.slashes, incident)) slash(incident);
    }

    /// Anybody shows two claims for one task, signed by one operator key, with different results.
    ///
    /// The columns are those of a batch's claims without the orchestrator and the quality, two entries each.
    public entry fun report_equivocation(
        reporter: &signer,
        client: address,
        server: address,
        public_key: vector<u8>,
        task_id: vector<u8>,
        delegates: vector<address>,
        delegate_bps: vector<u64>,
        model_digests: vector<vector<u8>>,
        complexities: vector<u64>,
        compute_ms: vector<u64>,
        prices: vector<u64>,
        result_hashes: vector<vector<u8>>,
        signatures: vector<vector<u8>>
    ) acquires Client, Config, Orchestrator, Registry {
        assert!(signed::is_public_key(&public_key), E_BAD_PUBLIC_KEY);
        assert!(vector::length(&task_id) == TASK_ID_BYTES, E_BAD_LENGTH);
        assert!(
            are_claims(
                2, &delegates, &delegate_bps, &model_digests, &complexities, &compute_ms, &prices, &result_hashes,
                &signatures
            ),
            E_BAD_BATCH
        );
        let operator = signed::account_of(public_key);
        let incident = SlashKey { operator, client, task_id };
        liable_stake_of(operator);
        assert!(
            !table::contains(&borrow_global<Registry>(@cactus_mesh).slashes, incident), E_ALREADY_SLASHED
        );
        for (i in 0..2) {
            let claim = Claim {
                orchestrator: operator,
                delegate: *vector::borrow(&delegates, i),
                delegate_bps: *vector::borrow(&delegate_bps, i),
                model_digest: *vector::borrow(&model_digests, i),
                complexity: *vector::borrow(&complexities, i),
                compute_ms: *vector::borrow(&compute_ms, i),
                price: *vector::borrow(&prices, i),
                result_hash: *vector::borrow(&result_hashes, i),
                signature: *vector::borrow(&signatures, i),
                quality_ppm: 0
            };
            assert!(
                vector::length(&claim.model_digest) == HASH_BYTES && vector::length(&claim.result_hash) == HASH_BYTES,
                E_BAD_LENGTH
            );
            let message = claim_message(server, &TaskKey { client, task_id }, operator, &claim);
            assert!(signed::verifies(public_key, message, claim.signature), E_BAD_CLAIM_SIGNATURE);
        };
        let (first_result, second_result) = (*vector::borrow(&result_hashes, 0), *vector::borrow(&result_hashes, 1));
        assert!(first_result != second_result, E_NO_EQUIVOCATION);
        event::emit(
            EquivocationReported {
                client,
                task_id,
                server,
                orchestrator: operator,
                reporter: signer::address_of(reporter),
                first_result,
                second_result
            }
        );
        slash(incident);
    }

    /// Take at most max_slash of the stake, the active first: to the client what it paid, to the treasury the rest.
    fun slash(incident: SlashKey) acquires Client, Config, Orchestrator, Registry {
        let config = borrow_global<Config>(@cactus_mesh);
        let vault = liable_stake_of(incident.operator);
        let orchestrator = borrow_global_mut<Orchestrator>(vault);
        let amount = min(config.params.max_slash, bonded(orchestrator));
        diminish(orchestrator, amount);
        let operator = signed::account_of(orchestrator.public_key);
        let to_client = min(amount, loss(&incident));
        if (to_client > 0) {
            let client_vault = vaults::of_client(incident.client);
            vaults::shift(vault, client_vault, to_client);
            let client = borrow_global_mut<Client>(client_vault);
            client.deposit += to_client;
        };
        vaults::release(vault, config.treasury, amount - to_client);
        table::add(&mut borrow_global_mut<Registry>(@cactus_mesh).slashes, incident, true);
        let SlashKey { operator: _, client, task_id } = incident;
        event::emit(Slashed { operator, client, task_id, amount, to_client });
    }

    fun diminish(orchestrator: &mut Orchestrator, amount: u64) {
        let active = min(amount, orchestrator.stake);
        let (left, unbonding) = (amount - active, vector[]);
        for (i in 0..vector::length(&orchestrator.unbonding)) {
            let Due { amount, release_at } = *vector::borrow(&orchestrator.unbonding, i);
            let taken = min(left, amount);
            left -= taken;
            if (amount > taken) vector::push_back(&mut unbonding, Due { amount: amount - taken, release_at });
        };
        orchestrator.stake -= active;
        orchestrator.unbonding = unbonding;
        let metrics = &mut orchestrator.metrics;
        metrics.slashed += 1;
    }

    /// What the client paid this operator's side for the task.
    fun loss(incident: &SlashKey): u64 acquires Registry {
        let tasks = &borrow_global<Registry>(@cactus_mesh).tasks;
        let key = TaskKey { client: incident.client, task_id: incident.task_id };
        if (!table::contains(tasks, key)) return 0;
        let task = table::borrow(tasks, key);
        if (task.status != TASK_COMPLETED || task.orchestrator != incident.operator) return 0;
        rewards::paid(option::borrow(&task.split))
    }

    fun min(a: u64, b: u64): u64 {
        if (a < b) a else b
    }

    // --- views; an absent record is an empty Option ---------------------------------------------------------------

    #[view]
    public fun config(): Config acquires Config {
        *borrow_global<Config>(@cactus_mesh)
    }

    #[view]
    /// The parameters' values, in the order of `set_params`.
    public fun params(): vector<u64> acquires Config {
        values_of(&borrow_global<Config>(@cactus_mesh).params)
    }

    #[view]
    public fun orchestrator(operator: address): Option<Orchestrator> acquires Orchestrator, Registry {
        if (!is_operator(operator)) return option::none();
        option::some(*borrow_global<Orchestrator>(stake_of(operator)))
    }

    #[view]
    public fun server(account: address): Option<ServerView> acquires Server {
        if (!exists<Server>(account)) return option::none();
        let Server { status, granted_by, expires_at, max_budget, escrowed } = *borrow_global<Server>(account);
        option::some(ServerView { status: server_status(status), granted_by, expires_at, max_budget, escrowed })
    }

    #[view]
    public fun client(account: address): Option<Client> acquires Client {
        let vault = vaults::of_client(account);
        if (!exists<Client>(vault)) return option::none();
        option::some(*borrow_global<Client>(vault))
    }

    #[view]
    public fun task(client: address, task_id: vector<u8>): Option<TaskView> acquires Registry {
        let tasks = &borrow_global<Registry>(@cactus_mesh).tasks;
        let key = TaskKey { client, task_id };
        if (!table::contains(tasks, key)) return option::none();
        let Task { server, orchestrator, status, max_price, done_by, ended_at, split, result_hash } =
            *table::borrow(tasks, key);
        option::some(
            TaskView {
                server,
                orchestrator,
                status: task_status(status),
                max_price,
                done_by,
                ended_at,
                split,
                result_hash
            }
        )
    }

    #[view]
    public fun dispute(client: address, task_id: vector<u8>): Option<DisputeView> acquires Registry {
        let disputes = &borrow_global<Registry>(@cactus_mesh).disputes;
        let key = TaskKey { client, task_id };
        if (!table::contains(disputes, key)) return option::none();
        let Dispute { orchestrator, opener, bond, evidence_hash, answer_hash, opened_at, act_by, status } =
            *table::borrow(disputes, key);
        option::some(
            DisputeView {
                orchestrator,
                opener,
                bond,
                evidence_hash,
                answer_hash,
                opened_at,
                act_by,
                status: dispute_status(status)
            }
        )
    }

    #[view]
    /// Whether this operator key has been punished for this task.
    public fun slashed(operator: address, client: address, task_id: vector<u8>): bool acquires Registry {
        table::contains(
            &borrow_global<Registry>(@cactus_mesh).slashes, SlashKey { operator, client, task_id }
        )
    }

    #[view]
    public fun nonce_used(client: address, nonce: u64): bool acquires Registry {
        table::contains(&borrow_global<Registry>(@cactus_mesh).nonces, NonceKey { client, nonce })
    }

    #[view]
    /// The formula with the present parameters, in octas; a success rate above 10^6 ppm counts as 10^6.
    public fun reward(complexity: u64, compute_ms: u64, success_ppm: u64, max_price: u64): u64 acquires Config {
        rewards::reward(
            &borrow_global<Config>(@cactus_mesh).params.reward, max_price, complexity, compute_ms, success_ppm
        )
    }

    #[view]
    /// In ppm, as the reward counts it; a newcomer's for whoever is not registered.
    public fun success_rate(operator: address): u64 acquires Orchestrator, Registry {
        if (!is_operator(operator)) return rewards::success_ppm(0, 0);
        success_of(&borrow_global<Orchestrator>(stake_of(operator)).metrics)
    }

    fun server_status(status: u8): String {
        if (status == SERVER_PENDING) string::utf8(b"pending")
        else if (status == SERVER_AUTHORISED) string::utf8(b"authorised")
        else string::utf8(b"revoked")
    }

    fun task_status(status: u8): String {
        if (status == TASK_CREATED) string::utf8(b"created")
        else if (status == TASK_COMPLETED) string::utf8(b"completed")
        else if (status == TASK_FAILED) string::utf8(b"failed")
        else string::utf8(b"timed_out")
    }

    fun dispute_status(status: u8): String {
        if (status == DISPUTE_OPEN) string::utf8(b"open")
        else if (status == DISPUTE_CONTESTED) string::utf8(b"contested")
        else if (status == DISPUTE_UPHELD) string::utf8(b"upheld")
        else if (status == DISPUTE_DISMISSED) string::utf8(b"dismissed")
        else string::utf8(b"lapsed")
    }

    // --- what the tests look at -----------------------------------------------------------------------------------

    #[test_only]
    public fun init_for_test(publisher: &signer) {
        init_module(publisher);
    }

    #[test_only]
    /// Deposit, escrow and the sum of the withdrawals under way.
    public fun money_of(client: address): (u64, u64, u64) acquires Client {
        let record = borrow_global<Client>(vaults::of_client(client));
        (record.deposit, record.escrowed, sum(&record.withdrawals))
    }

    #[test_only]
    /// Active stake, the sum of the unbondings, and the bonds of open disputes.
    public fun stake_for_test(operator: address): (u64, u64, u64) acquires Orchestrator, Registry {
        let record = borrow_global<Orchestrator>(liable_stake_of(operator));
        (record.stake, sum(&record.unbonding), record.bonds)
    }

    #[test_only]
    /// Completed, failed, timed out and slashed.
    public fun record_of(operator: address): (u64, u64, u64, u64) acquires Orchestrator, Registry {
        let metrics = borrow_global<Orchestrator>(liable_stake_of(operator)).metrics;
        (metrics.completed, metrics.failed, metrics.timed_out, metrics.slashed)
    }

    #[test_only]
    public fun stake_vault_for_test(operator: address): address acquires Registry {
        liable_stake_of(operator)
    }

    #[test_only]
    public fun server_for_test(account: address): (String, u64, u64, u64) acquires Server {
        let view = option::extract(&mut server(account));
        (view.status, view.expires_at, view.max_budget, view.escrowed)
    }

    #[test_only]
    public fun task_status_for_test(client: address, task_id: vector<u8>): String acquires Registry {
        option::extract(&mut task(client, task_id)).status
    }

    #[test_only]
    public fun dispute_status_for_test(client: address, task_id: vector<u8>): String acquires Registry {
        option::extract(&mut dispute(client, task_id)).status
    }

    #[test_only]
    /// Admin, arbiter, treasury and whether the contract is paused.
    public fun offices_for_test(): (address, address, address, bool) acquires Config {
        let config = config();
        (config.admin, config.arbiter, config.treasury, config.paused)
    }

    #[test_only]
    /// The numbers of the reasons of all skipped items, oldest first.
    public fun skip_reasons(): vector<u64> {
        let (events, reasons) = (event::emitted_events<SettlementSkipped>(), vector[]);
        for (i in 0..vector::length(&events)) {
            vector::push_back(&mut reasons, vector::borrow(&events, i).reason);
        };
        reasons
    }

    #[test_only]
    /// Amount and the client's part of all slashes, added up.
    public fun slashed_for_test(): (u64, u64) {
        let (events, amount, to_client) = (event::emitted_events<Slashed>(), 0, 0);
        for (i in 0..vector::length(&events)) {
            amount += vector::borrow(&events, i).amount;
            to_client += vector::borrow(&events, i).to_client;
        };
        (amount, to_client)
    }
}
