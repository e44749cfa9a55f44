#[test_only]
/// Every entry, view and error code of the contract, by example.
module cactus_mesh::payment_tests {
    use std::option;
    use std::string;
    use std::vector;
    use aptos_std::ed25519::{Self, SecretKey};
    use aptos_framework::account;
    use aptos_framework::aptos_coin;
    use aptos_framework::chain_id;
    use aptos_framework::fungible_asset::{Self, FungibleStore, Metadata};
    use aptos_framework::object;
    use aptos_framework::primary_fungible_store;
    use aptos_framework::timestamp;
    use cactus_mesh::cactus_payment;
    use cactus_mesh::signed;
    use cactus_mesh::vaults;

    const NOW: u64 = 1_800_000_000;
    const COIN: u64 = 100_000_000;
    const BOND: u64 = 10_000_000;
    const SLASH: u64 = 20_000_000;
    const NOBODY: address = @0x0;
    /// What the client pays for `item`.
    const PAID: u64 = 2_327;

    /// Somebody with a key.
    struct Actor has drop { key: SecretKey, public_key: vector<u8>, address: address }

    /// Everybody has 100 coins; the router is authorised, two orchestrators staked, the client has deposited 10.
    struct World has drop {
        router: Actor,
        orchestrator: Actor,
        delegate: Actor,
        client: Actor,
        stranger: Actor
    }

    /// One task as both sides sign it; tests change single fields.
    struct Item has copy, drop {
        client: address,
        router: address,
        orchestrator: address,
        delegate: address,
        delegate_bps: u64,
        task_id: vector<u8>,
        nonce: u64,
        max_price: u64,
        expires_at: u64,
        model_digest: vector<u8>,
        complexity: u64,
        compute_ms: u64,
        price: u64,
        result_hash: vector<u8>,
        quality_ppm: u64
    }

    // --- the world ------------------------------------------------------------------------------------------------

    fun new_actor(): Actor {
        let (key, public_key) = ed25519::generate_keys();
        let public_key = ed25519::validated_public_key_to_bytes(&public_key);
        Actor { key, public_key, address: signed::account_of(public_key) }
    }

    fun acting(actor: &Actor): signer {
        account::create_signer_for_test(actor.address)
    }

    fun admin(): signer {
        account::create_signer_for_test(@cactus_mesh)
    }

    fun sign(actor: &Actor, message: vector<u8>): vector<u8> {
        ed25519::signature_to_bytes(&ed25519::sign_arbitrary_bytes(&actor.key, message))
    }

    fun fund(account: address, amount: u64) {
        primary_fungible_store::deposit(account, aptos_coin::mint_apt_fa_for_test(amount));
    }

    fun coins(account: address): u64 {
        primary_fungible_store::balance(account, object::address_to_object<Metadata>(@0xa))
    }

    fun new_world(): World {
        let framework = account::create_signer_for_test(@aptos_framework);
        timestamp::set_time_has_started_for_testing(&framework);
        timestamp::update_global_time_for_test_secs(NOW);
        chain_id::initialize_for_test(&framework, 4);
        aptos_coin::ensure_initialized_with_apt_fa_metadata_for_test();
        cactus_payment::init_for_test(&admin());
        let world = World {
            router: new_actor(),
            orchestrator: new_actor(),
            delegate: new_actor(),
            client: new_actor(),
            stranger: new_actor()
        };
        fund(@cactus_mesh, 100 * COIN);
        fund(world.router.address, 100 * COIN);
        fund(world.orchestrator.address, 100 * COIN);
        fund(world.delegate.address, 100 * COIN);
        fund(world.client.address, 100 * COIN);
        fund(world.stranger.address, 100 * COIN);
        cactus_payment::register_server(&acting(&world.router));
        cactus_payment::authorize_server(&admin(), world.router.address, NOW + 10_000_000, COIN);
        register(&world.orchestrator, COIN);
        register(&world.delegate, COIN);
        cactus_payment::deposit(&acting(&world.client), world.client.public_key, 10 * COIN);
        world
    }

    fun register(actor: &Actor, stake: u64) {
        cactus_payment::register_orchestrator(&acting(actor), actor.public_key, vector[], stake);
    }

    fun bytes32(byte: u8): vector<u8> {
        let bytes = vector[];
        for (i in 0..32) {
            vector::push_back(&mut bytes, byte);
        };
        bytes
    }

    fun task_id(number: u8): vector<u8> {
        let bytes = vector[];
        for (i in 0..16) {
            vector::push_back(&mut bytes, number);
        };
        bytes
    }

    fun item(world: &World, number: u8): Item {
        Item {
            client: world.client.address,
            router: world.router.address,
            orchestrator: world.orchestrator.address,
            delegate: NOBODY,
            delegate_bps: 0,
            task_id: task_id(number),
            nonce: (number as u64),
            max_price: 10_000,
            expires_at: NOW + 1_000_000,
            model_digest: bytes32(1),
            complexity: 5_000_000,
            compute_ms: 1_500,
            price: 5_000,
            result_hash: bytes32(2),
            quality_ppm: 1_000_000
        }
    }

    fun consent(actor: &Actor, item: &Item): vector<u8> {
        sign(
            actor,
            signed::consent_bytes(
                item.client, item.router, item.task_id, item.nonce, item.max_price, item.expires_at
            )
        )
    }

    fun claim(actor: &Actor, item: &Item): vector<u8> {
        sign(
            actor,
            signed::claim_bytes(
                item.client, item.router, item.orchestrator, item.delegate, item.delegate_bps, item.task_id,
                item.model_digest, item.complexity, item.compute_ms, item.price, item.result_hash
            )
        )
    }

    /// The stranger becomes an authorised router too.
    fun second_router(world: &World) {
        cactus_payment::register_server(&acting(&world.stranger));
        cactus_payment::authorize_server(&admin(), world.stranger.address, NOW + 10_000_000, COIN);
    }

    fun create(world: &World, item: &Item) {
        let now = timestamp::now_seconds();
        create_with(world, item, consent(&world.client, item), now + 60, now + 600);
    }

    fun create_with(world: &World, item: &Item, signature: vector<u8>, accept_by: u64, done_by: u64) {
        cactus_payment::create_task(
            &acting(&world.router), item.client, item.task_id, item.nonce, item.max_price, item.expires_at, signature,
            item.orchestrator, accept_by, done_by
        );
    }

    fun complete(world: &World, item: &Item) {
        complete_with(&world.router, item, claim(&world.orchestrator, item));
    }

    fun complete_with(router: &Actor, item: &Item, signature: vector<u8>) {
        cactus_payment::complete_task(
            &acting(router), item.client, item.task_id, item.delegate, item.delegate_bps, item.model_digest,
            item.complexity, item.compute_ms, item.price, item.result_hash, signature, item.quality_ppm
        );
    }

    fun settle(world: &World, items: vector<Item>) {
        let signatures = vector[];
        for (i in 0..vector::length(&items)) {
            vector::push_back(&mut signatures, consent(&world.client, vector::borrow(&items, i)));
        };
        settle_with(&world.router, world, items, signatures);
    }

    /// The columns of a batch, each claim signed by the orchestrator.
    fun settle_with(router: &Actor, world: &World, items: vector<Item>, consents: vector<vector<u8>>) {
        let (clients, task_ids, nonces, max_prices, expiries) = (vector[], vector[], vector[], vector[], vector[]);
        let (orchestrators, delegates, bps, digests) = (vector[], vector[], vector[], vector[]);
        let (complexities, times, prices, results) = (vector[], vector[], vector[], vector[]);
        let (claims, qualities) = (vector[], vector[]);
        for (i in 0..vector::length(&items)) {
            let item = *vector::borrow(&items, i);
            vector::push_back(&mut clients, item.client);
            vector::push_back(&mut task_ids, item.task_id);
            vector::push_back(&mut nonces, item.nonce);
            vector::push_back(&mut max_prices, item.max_price);
            vector::push_back(&mut expiries, item.expires_at);
            vector::push_back(&mut orchestrators, item.orchestrator);
            vector::push_back(&mut delegates, item.delegate);
            vector::push_back(&mut bps, item.delegate_bps);
            vector::push_back(&mut digests, item.model_digest);
            vector::push_back(&mut complexities, item.complexity);
            vector::push_back(&mut times, item.compute_ms);
            vector::push_back(&mut prices, item.price);
            vector::push_back(&mut results, item.result_hash);
            vector::push_back(&mut claims, claim(&world.orchestrator, &item));
            vector::push_back(&mut qualities, item.quality_ppm);
        };
        cactus_payment::settle_batch(
            &acting(router), clients, task_ids, nonces, max_prices, expiries, consents, orchestrators, delegates, bps,
            digests, complexities, times, prices, results, claims, qualities
        );
    }

    /// Why a batch skips `item`; checks that nothing else changed.
    fun skipped(world: &World, item: Item): u64 {
        let (deposit, escrowed, _) = cactus_payment::money_of(world.client.address);
        settle(world, vector[item]);
        let (deposit_after, escrowed_after, _) = cactus_payment::money_of(world.client.address);
        assert!(deposit == deposit_after && escrowed == escrowed_after, 0);
        let reasons = cactus_payment::skip_reasons();
        vector::pop_back(&mut reasons)
    }

    fun deposit_of(world: &World): u64 {
        let (deposit, _, _) = cactus_payment::money_of(world.client.address);
        deposit
    }

    fun stake_of(actor: &Actor): u64 {
        let (stake, _, _) = cactus_payment::stake_for_test(actor.address);
        stake
    }

    /// A completed task that the client has disputed.
    fun disputed(): World {
        let world = new_world();
        settle(&world, vector[item(&world, 1)]);
        dispute(&world, 1);
        world
    }

    fun dispute(world: &World, number: u8) {
        cactus_payment::open_dispute(&acting(&world.client), world.client.address, task_id(number), bytes32(9));
    }

    fun contest(world: &World) {
        cactus_payment::contest_dispute(
            &acting(&world.orchestrator), world.client.address, task_id(1), bytes32(8)
        );
    }

    fun resolve(world: &World, upheld: bool) {
        cactus_payment::resolve_dispute(&admin(), world.client.address, task_id(1), upheld);
    }

    fun finalize(world: &World) {
        cactus_payment::finalize_dispute(&acting(&world.stranger), world.client.address, task_id(1));
    }

    fun status(world: &World): vector<u8> {
        *string::bytes(&cactus_payment::dispute_status_for_test(world.client.address, task_id(1)))
    }

    /// Two claims of `item` with the results 1 and 2.
    fun report(world: &World, item: Item) {
        report_results(world, item, world.orchestrator.public_key, bytes32(1), bytes32(2));
    }

    fun report_results(world: &World, item: Item, public_key: vector<u8>, first: vector<u8>, second: vector<u8>) {
        item.result_hash = first;
        let one = claim(&world.orchestrator, &item);
        item.result_hash = second;
        let two = claim(&world.orchestrator, &item);
        cactus_payment::report_equivocation(
            &acting(&world.stranger), item.client, item.router, public_key, item.task_id,
            vector[item.delegate, item.delegate], vector[item.delegate_bps, item.delegate_bps],
            vector[item.model_digest, item.model_digest], vector[item.complexity, item.complexity],
            vector[item.compute_ms, item.compute_ms], vector[item.price, item.price],
            vector[first, second], vector[one, two]
        );
    }

    fun default_params(): vector<u64> {
        vector[
            200, 150, 1, 2_000, 100, 500, 2_000, 9_500, COIN, 3_600, 86_400, 604_800, 3_600, BOND, 86_400, 604_800,
            SLASH
        ]
    }

    fun set_params(values: vector<u64>) {
        let v = &values;
        cactus_payment::set_params(
            &admin(), at(v, 0), at(v, 1), at(v, 2), at(v, 3), at(v, 4), at(v, 5), at(v, 6), at(v, 7), at(v, 8), at(v, 9), at(v, 10), at(v, 11), at(v, 12), at(v, 13), at(v, 14),
            at(v, 15), at(v, 16)
        );
    }

    fun at(values: &vector<u64>, i: u64): u64 {
        *vector::borrow(values, i)
    }

    fun set_param(index: u64, value: u64) {
        let values = default_params();
        *vector::borrow_mut(&mut values, index) = value;
        set_params(values);
    }

    fun operator_consent(operator: &Actor, owner: &Actor): vector<u8> {
        sign(operator, signed::operator_bytes(owner.address, operator.address))
    }

    // --- the worked example of the header -------------------------------------------------------------------------

    #[test]
    fun the_example_of_the_header() {
        let world = new_world();
        let item = item(&world, 1);
        item.delegate = world.delegate.address;
        item.delegate_bps = 4_000;
        let (treasury, router) = (coins(@cactus_mesh), coins(world.router.address));
        settle(&world, vector[item]);
        assert!(coins(@cactus_mesh) == treasury + 23, 1);
        assert!(coins(world.router.address) == router + 93, 2);
        assert!(coins(world.delegate.address) == 99 * COIN + 884, 3);
        assert!(coins(world.orchestrator.address) == 99 * COIN + 1_327, 4);
        assert!(deposit_of(&world) == 10 * COIN - 2_327, 5);
        dispute(&world, 1);
        timestamp::fast_forward_seconds(86_401);
        finalize(&world);
        assert!(stake_of(&world.orchestrator) == COIN - 20_000_000, 6);
        assert!(deposit_of(&world) == 10 * COIN, 7);
        assert!(coins(@cactus_mesh) == treasury + 23 + 19_997_673, 8);
    }

    // --- nobody's key opens a vault -------------------------------------------------------------------------------

    fun take(thief: &signer, vault: address) {
        let store = object::address_to_object<FungibleStore>(vault);
        primary_fungible_store::deposit(@0xbad, fungible_asset::withdraw(thief, store, 1));
    }

    #[test]
    #[expected_failure(abort_code = 0x50008, location = aptos_framework::fungible_asset)]
    fun the_publisher_cannot_drain_a_stake() {
        let world = new_world();
        take(&admin(), cactus_payment::stake_vault_for_test(world.orchestrator.address));
    }

    #[test]
    #[expected_failure(abort_code = 0x50008, location = aptos_framework::fungible_asset)]
    fun the_publisher_cannot_drain_a_deposit() {
        let world = new_world();
        take(&admin(), vaults::of_client(world.client.address));
    }

    #[test]
    #[expected_failure(abort_code = 0x50008, location = aptos_framework::fungible_asset)]
    fun an_administrator_who_is_not_the_publisher_cannot_drain_a_deposit() {
        let world = new_world();
        cactus_payment::propose_admin(&admin(), world.stranger.address);
        cactus_payment::accept_admin(&acting(&world.stranger));
        take(&acting(&world.stranger), vaults::of_client(world.client.address));
    }

    #[test]
    #[expected_failure(abort_code = 0x50008, location = aptos_framework::fungible_asset)]
    fun an_owner_cannot_take_its_stake_past_the_contract() {
        let world = new_world();
        take(&acting(&world.orchestrator), cactus_payment::stake_vault_for_test(world.orchestrator.address));
    }

    #[test]
    #[expected_failure(abort_code = 0x50003, location = aptos_framework::object)]
    fun the_publisher_cannot_take_a_vault_over() {
        let world = new_world();
        object::transfer_raw(&admin(), vaults::of_client(world.client.address), @cactus_mesh);
    }

    #[test]
    #[expected_failure(abort_code = 0x50003, location = aptos_framework::object)]
    fun the_publisher_cannot_take_the_root_of_the_vaults_over() {
        new_world();
        object::transfer_raw(&admin(), vaults::root_address_for_test(), @cactus_mesh);
    }

    #[test]
    fun a_vault_holds_what_it_accounts_for() {
        let world = new_world();
        create(&world, &item(&world, 1));
        cactus_payment::request_withdrawal(&acting(&world.client), COIN);
        let (deposit, escrowed, withdrawing) = cactus_payment::money_of(world.client.address);
        assert!(deposit == 9 * COIN - 10_000 && escrowed == 10_000 && withdrawing == COIN, 0);
        assert!(vaults::balance_for_test(vaults::of_client(world.client.address)) == 10 * COIN, 1);
    }

    // --- administration --------------------------------------------------------------------------------------------------

    #[test]
    fun administration_changes_hands_in_two_steps() {
        let world = new_world();
        let new = acting(&world.stranger);
        cactus_payment::propose_admin(&admin(), world.stranger.address);
        let (before, _, _, _) = cactus_payment::offices_for_test();
        assert!(before == @cactus_mesh, 0);
        cactus_payment::accept_admin(&new);
        cactus_payment::set_treasury(&new, @0x77);
        cactus_payment::set_arbiter(&new, @0x88);
        cactus_payment::set_paused(&new, true);
        let (admin, arbiter, treasury, paused) = cactus_payment::offices_for_test();
        assert!(admin == world.stranger.address && arbiter == @0x88 && treasury == @0x77 && paused, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x50001, location = cactus_mesh::cactus_payment)]
    fun only_the_administrator_may_propose_admin() {
        let world = new_world();
        let thief = acting(&world.stranger);
        cactus_payment::propose_admin(&thief, @0x1);
    }

    #[test]
    #[expected_failure(abort_code = 0x50001, location = cactus_mesh::cactus_payment)]
    fun only_the_administrator_may_set_treasury() {
        let world = new_world();
        let thief = acting(&world.stranger);
        cactus_payment::set_treasury(&thief, @0x1);
    }

    #[test]
    #[expected_failure(abort_code = 0x50001, location = cactus_mesh::cactus_payment)]
    fun only_the_administrator_may_set_arbiter() {
        let world = new_world();
        let thief = acting(&world.stranger);
        cactus_payment::set_arbiter(&thief, @0x1);
    }

    #[test]
    #[expected_failure(abort_code = 0x50001, location = cactus_mesh::cactus_payment)]
    fun only_the_administrator_may_set_paused() {
        let world = new_world();
        let thief = acting(&world.stranger);
        cactus_payment::set_paused(&thief, true);
    }

    #[test]
    #[expected_failure(abort_code = 0x50001, location = cactus_mesh::cactus_payment)]
    fun only_the_administrator_may_authorize_server() {
        let world = new_world();
        let thief = acting(&world.stranger);
        cactus_payment::authorize_server(&thief, world.router.address, NOW + 1, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x50001, location = cactus_mesh::cactus_payment)]
    fun only_the_administrator_may_revoke_server() {
        let world = new_world();
        let thief = acting(&world.stranger);
        cactus_payment::revoke_server(&thief, world.router.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x50001, location = cactus_mesh::cactus_payment)]
    fun only_the_administrator_may_set_params() {
        let world = new_world();
        cactus_payment::set_params(
            &acting(&world.stranger), 200, 150, 1, 2_000, 100, 500, 2_000, 9_500, COIN, 3_600, 86_400, 604_800, 3_600, BOND,
            86_400, 604_800, SLASH
        );
    }

    #[test]
    #[expected_failure(abort_code = 0x50002, location = cactus_mesh::cactus_payment)]
    fun only_the_proposed_account_may_accept() {
        let world = new_world();
        cactus_payment::propose_admin(&admin(), @0x77);
        cactus_payment::accept_admin(&acting(&world.stranger));
    }

    #[test]
    fun parameters_within_bounds_hold_from_then_on() {
        new_world();
        set_param(5, 0);
        let values = default_params();
        *vector::borrow_mut(&mut values, 5) = 0;
        assert!(cactus_payment::params() == values, 0);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun base_has_an_upper_bound() {
        new_world();
        set_param(0, 1_000_000_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun unit_price_has_an_upper_bound() {
        new_world();
        set_param(1, 1_000_000_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun ms_price_has_an_upper_bound() {
        new_world();
        set_param(2, 1_000_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun allowed_base_ms_has_an_upper_bound() {
        new_world();
        set_param(3, 600_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun allowed_us_per_mflop_has_an_upper_bound() {
        new_world();
        set_param(4, 1_000_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun fee_bps_has_an_upper_bound() {
        new_world();
        set_param(5, 2_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun treasury_bps_has_an_upper_bound() {
        new_world();
        set_param(6, 10_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun max_delegate_bps_has_an_upper_bound() {
        new_world();
        set_param(7, 10_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun min_stake_has_an_upper_bound() {
        new_world();
        set_param(8, 100_000_000_000_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun longest_task_seconds_has_an_upper_bound() {
        new_world();
        set_param(9, 604_801);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun dispute_window_seconds_has_an_upper_bound() {
        new_world();
        set_param(10, 2_592_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun unbonding_seconds_has_an_upper_bound() {
        new_world();
        set_param(11, 5_184_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun withdrawal_seconds_has_an_upper_bound() {
        new_world();
        set_param(12, 2_592_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun dispute_bond_has_an_upper_bound() {
        new_world();
        set_param(13, 100_000_000_000_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun contest_seconds_has_an_upper_bound() {
        new_world();
        set_param(14, 2_592_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun arbitration_seconds_has_an_upper_bound() {
        new_world();
        set_param(15, 2_592_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun max_slash_has_an_upper_bound() {
        new_world();
        set_param(16, 100_000_000_000_001);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun min_stake_has_a_lower_bound() {
        new_world();
        set_param(8, 0);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun longest_task_seconds_has_a_lower_bound() {
        new_world();
        set_param(9, 59);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun dispute_window_seconds_has_a_lower_bound() {
        new_world();
        set_param(10, 59);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun unbonding_seconds_has_a_lower_bound() {
        new_world();
        set_param(11, 119);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun withdrawal_seconds_has_a_lower_bound() {
        new_world();
        set_param(12, 59);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun dispute_bond_has_a_lower_bound() {
        new_world();
        set_param(13, 0);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun contest_seconds_has_a_lower_bound() {
        new_world();
        set_param(14, 59);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun arbitration_seconds_has_a_lower_bound() {
        new_world();
        set_param(15, 59);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun unbonding_outlasts_tasks_and_disputes() {
        new_world();
        set_param(11, 3_600 + 86_400 - 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x20003, location = cactus_mesh::cactus_payment)]
    fun withdrawals_outlast_tasks() {
        new_world();
        set_param(12, 3_599);
    }

    #[test]
    #[expected_failure(abort_code = 0x30004, location = cactus_mesh::cactus_payment)]
    fun a_pause_stops_register_server() {
        let world = new_world();
        cactus_payment::set_paused(&admin(), true);
        cactus_payment::register_server(&acting(&world.stranger));
    }

    #[test]
    #[expected_failure(abort_code = 0x30004, location = cactus_mesh::cactus_payment)]
    fun a_pause_stops_register_orchestrator() {
        let world = new_world();
        cactus_payment::set_paused(&admin(), true);
        register(&world.stranger, COIN);
    }

    #[test]
    #[expected_failure(abort_code = 0x30004, location = cactus_mesh::cactus_payment)]
    fun a_pause_stops_add_stake() {
        let world = new_world();
        cactus_payment::set_paused(&admin(), true);
        cactus_payment::add_stake(&acting(&world.orchestrator), world.orchestrator.address, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x30004, location = cactus_mesh::cactus_payment)]
    fun a_pause_stops_register_client() {
        let world = new_world();
        cactus_payment::set_paused(&admin(), true);
        cactus_payment::register_client(&acting(&world.stranger), world.stranger.public_key);
    }

    #[test]
    #[expected_failure(abort_code = 0x30004, location = cactus_mesh::cactus_payment)]
    fun a_pause_stops_deposit() {
        let world = new_world();
        cactus_payment::set_paused(&admin(), true);
        cactus_payment::deposit(&acting(&world.client), world.client.public_key, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x30004, location = cactus_mesh::cactus_payment)]
    fun a_pause_stops_create_task() {
        let world = new_world();
        cactus_payment::set_paused(&admin(), true);
        create(&world, &item(&world, 1));
    }

    #[test]
    fun a_pause_stops_nothing_that_goes_out() {
        let world = new_world();
        create(&world, &item(&world, 1));
        create(&world, &item(&world, 2));
        create(&world, &item(&world, 3));
        let owner = acting(&world.orchestrator);
        cactus_payment::request_unstake(&owner, world.orchestrator.address, 1);
        cactus_payment::request_withdrawal(&acting(&world.client), 1);
        cactus_payment::set_paused(&admin(), true);
        complete(&world, &item(&world, 1));
        cactus_payment::fail_task(&acting(&world.router), world.client.address, task_id(2));
        settle(&world, vector[item(&world, 4)]);
        timestamp::fast_forward_seconds(604_800);
        cactus_payment::timeout_task(&acting(&world.stranger), world.client.address, task_id(3));
        cactus_payment::withdraw_stake(&owner, world.orchestrator.address);
        cactus_payment::withdraw(&acting(&world.client));
        assert!(coins(world.client.address) == 90 * COIN + 1, 0);
    }

    // --- servers ---------------------------------------------------------------------------------------------------------

    #[test]
    fun a_server_waits_for_its_authorisation_and_can_be_revoked() {
        let world = new_world();
        let account = world.stranger.address;
        assert!(option::is_none(&cactus_payment::server(account)), 0);
        cactus_payment::register_server(&acting(&world.stranger));
        let (status, _, _, _) = cactus_payment::server_for_test(account);
        assert!(status == string::utf8(b"pending"), 1);
        cactus_payment::authorize_server(&admin(), account, NOW + 5, 7);
        let (status, expires_at, max_budget, escrowed) = cactus_payment::server_for_test(account);
        assert!(status == string::utf8(b"authorised") && expires_at == NOW + 5 && max_budget == 7 && escrowed == 0, 2);
        cactus_payment::revoke_server(&admin(), account);
        let (status, _, _, _) = cactus_payment::server_for_test(account);
        assert!(status == string::utf8(b"revoked"), 3);
    }

    #[test]
    #[expected_failure(abort_code = 0x8000a, location = cactus_mesh::cactus_payment)]
    fun a_server_registers_once() {
        let world = new_world();
        cactus_payment::register_server(&acting(&world.router));
    }

    #[test]
    #[expected_failure(abort_code = 0x6000b, location = cactus_mesh::cactus_payment)]
    fun only_a_registered_server_is_authorised() {
        new_world();
        cactus_payment::authorize_server(&admin(), @0x77, NOW + 1, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x6000b, location = cactus_mesh::cactus_payment)]
    fun only_a_registered_server_is_revoked() {
        new_world();
        cactus_payment::revoke_server(&admin(), @0x77);
    }

    #[test]
    #[expected_failure(abort_code = 0x6000b, location = cactus_mesh::cactus_payment)]
    fun an_unregistered_account_settles_nothing() {
        let world = new_world();
        let item = item(&world, 1);
        settle_with(&world.stranger, &world, vector[item], vector[consent(&world.client, &item)]);
    }

    #[test]
    #[expected_failure(abort_code = 0x5000c, location = cactus_mesh::cactus_payment)]
    fun a_revoked_server_settles_nothing() {
        let world = new_world();
        cactus_payment::revoke_server(&admin(), world.router.address);
        settle(&world, vector[item(&world, 1)]);
    }

    #[test]
    #[expected_failure(abort_code = 0x5000d, location = cactus_mesh::cactus_payment)]
    fun an_expired_server_creates_nothing() {
        let world = new_world();
        timestamp::fast_forward_seconds(10_000_000);
        create(&world, &item(&world, 1));
    }

    #[test]
    #[expected_failure(abort_code = 0x1000e, location = cactus_mesh::cactus_payment)]
    fun an_authorisation_ends_in_the_future() {
        let world = new_world();
        cactus_payment::authorize_server(&admin(), world.router.address, NOW, 1);
    }

    // --- stakes ----------------------------------------------------------------------------------------------------------

    #[test]
    fun a_stake_comes_and_goes() {
        let world = new_world();
        let (owner, operator) = (acting(&world.orchestrator), world.orchestrator.address);
        assert!(option::is_some(&cactus_payment::orchestrator(operator)), 0);
        assert!(option::is_none(&cactus_payment::orchestrator(@0x77)), 1);
        cactus_payment::add_stake(&owner, operator, 50);
        cactus_payment::request_unstake(&owner, operator, 20);
        cactus_payment::cancel_unstake(&owner, operator);
        cactus_payment::request_unstake(&owner, operator, 30);
        timestamp::fast_forward_seconds(1);
        cactus_payment::request_unstake(&owner, operator, 7);
        timestamp::fast_forward_seconds(604_799);
        cactus_payment::withdraw_stake(&owner, operator);
        let (stake, unbonding, bonds) = cactus_payment::stake_for_test(operator);
        assert!(stake == COIN + 50 - 37 && unbonding == 7 && bonds == 0, 2);
        assert!(coins(operator) == 99 * COIN - 50 + 30, 3);
    }

    #[test]
    fun a_cold_owner_stakes_for_a_hot_operator_that_agrees() {
        let world = new_world();
        let operator = new_actor();
        let agreed = operator_consent(&operator, &world.stranger);
        cactus_payment::register_orchestrator(&acting(&world.stranger), operator.public_key, agreed, COIN);
        assert!(stake_of(&operator) == COIN && coins(world.stranger.address) == 99 * COIN, 0);
    }

    #[test]
    fun a_replaced_operator_key_is_worthless_and_leaves_the_blame_with_the_stake() {
        let world = new_world();
        let new = new_actor();
        create(&world, &item(&world, 1));
        let agreed = operator_consent(&new, &world.orchestrator);
        cactus_payment::set_operator(
            &acting(&world.orchestrator), world.orchestrator.address, new.public_key, agreed
        );
        assert!(option::is_none(&cactus_payment::orchestrator(world.orchestrator.address)), 0);
        assert!(stake_of(&new) == COIN, 1);
        assert!(skipped(&world, item(&world, 2)) == 0x60015, 2);
        cactus_payment::fail_task(&acting(&world.router), world.client.address, task_id(1));
        let (completed, failed, timed_out, slashed) = cactus_payment::record_of(new.address);
        assert!(completed == 0 && failed == 1 && timed_out == 0 && slashed == 0, 3);
    }

    #[test]
    #[expected_failure(abort_code = 0x10005, location = cactus_mesh::cactus_payment)]
    fun an_operator_key_has_32_bytes() {
        let world = new_world();
        cactus_payment::register_orchestrator(&acting(&world.stranger), b"short", vector[], COIN);
    }

    #[test]
    #[expected_failure(abort_code = 0x20017, location = cactus_mesh::cactus_payment)]
    fun a_stake_has_a_minimum() {
        let world = new_world();
        register(&world.stranger, COIN - 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x90007, location = cactus_mesh::cactus_payment)]
    fun a_stake_needs_the_coins() {
        let world = new_world();
        register(&world.stranger, 101 * COIN);
    }

    #[test]
    #[expected_failure(abort_code = 0x90007, location = cactus_mesh::cactus_payment)]
    fun an_added_stake_needs_the_coins() {
        let world = new_world();
        cactus_payment::add_stake(&acting(&world.orchestrator), world.orchestrator.address, 100 * COIN);
    }

    #[test]
    #[expected_failure(abort_code = 0x80014, location = cactus_mesh::cactus_payment)]
    fun an_operator_registers_once() {
        let world = new_world();
        register(&world.orchestrator, COIN);
    }

    #[test]
    #[expected_failure(abort_code = 0x80014, location = cactus_mesh::cactus_payment)]
    fun an_operator_key_serves_one_stake() {
        let world = new_world();
        let agreed = operator_consent(&world.delegate, &world.orchestrator);
        cactus_payment::set_operator(
            &acting(&world.orchestrator), world.orchestrator.address, world.delegate.public_key, agreed
        );
    }

    #[test]
    #[expected_failure(abort_code = 0x1001e, location = cactus_mesh::cactus_payment)]
    fun nobody_registers_the_key_of_somebody_who_did_not_agree() {
        let world = new_world();
        let operator = new_actor();
        let other = operator_consent(&operator, &world.client);
        cactus_payment::register_orchestrator(&acting(&world.stranger), operator.public_key, other, COIN);
    }

    #[test]
    #[expected_failure(abort_code = 0x60015, location = cactus_mesh::cactus_payment)]
    fun there_is_no_stake_to_add_to() {
        let world = new_world();
        cactus_payment::add_stake(&acting(&world.stranger), world.stranger.address, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x50016, location = cactus_mesh::cactus_payment)]
    fun only_the_owner_may_add_stake() {
        let world = new_world();
        cactus_payment::add_stake(&acting(&world.stranger), world.orchestrator.address, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x50016, location = cactus_mesh::cactus_payment)]
    fun only_the_owner_may_request_unstake() {
        let world = new_world();
        cactus_payment::request_unstake(&acting(&world.stranger), world.orchestrator.address, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x50016, location = cactus_mesh::cactus_payment)]
    fun only_the_owner_may_cancel_unstake() {
        let world = new_world();
        cactus_payment::cancel_unstake(&acting(&world.stranger), world.orchestrator.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x50016, location = cactus_mesh::cactus_payment)]
    fun only_the_owner_may_withdraw_stake() {
        let world = new_world();
        cactus_payment::withdraw_stake(&acting(&world.stranger), world.orchestrator.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x50016, location = cactus_mesh::cactus_payment)]
    fun only_the_owner_may_set_operator() {
        let world = new_world();
        cactus_payment::set_operator(
            &acting(&world.stranger), world.orchestrator.address, world.stranger.public_key, vector[]
        );
    }

    #[test]
    #[expected_failure(abort_code = 0x10006, location = cactus_mesh::cactus_payment)]
    fun add_stake_of_nothing() {
        let world = new_world();
        cactus_payment::add_stake(&acting(&world.orchestrator), world.orchestrator.address, 0);
    }

    #[test]
    #[expected_failure(abort_code = 0x10006, location = cactus_mesh::cactus_payment)]
    fun request_unstake_of_nothing() {
        let world = new_world();
        cactus_payment::request_unstake(&acting(&world.orchestrator), world.orchestrator.address, 0);
    }

    #[test]
    #[expected_failure(abort_code = 0x90019, location = cactus_mesh::cactus_payment)]
    fun no_more_is_unstaked_than_there_is() {
        let world = new_world();
        cactus_payment::request_unstake(&acting(&world.orchestrator), world.orchestrator.address, COIN + 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x9001a, location = cactus_mesh::cactus_payment)]
    fun unbondings_are_bounded() {
        let world = new_world();
        for (i in 0..9) {
            cactus_payment::request_unstake(&acting(&world.orchestrator), world.orchestrator.address, 1);
        };
    }

    #[test]
    #[expected_failure(abort_code = 0x3001b, location = cactus_mesh::cactus_payment)]
    fun nothing_unbonding_is_cancelled() {
        let world = new_world();
        cactus_payment::cancel_unstake(&acting(&world.orchestrator), world.orchestrator.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x3001c, location = cactus_mesh::cactus_payment)]
    fun stake_leaves_only_when_due() {
        let world = new_world();
        cactus_payment::request_unstake(&acting(&world.orchestrator), world.orchestrator.address, 1);
        timestamp::fast_forward_seconds(604_799);
        cactus_payment::withdraw_stake(&acting(&world.orchestrator), world.orchestrator.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x3001d, location = cactus_mesh::cactus_payment)]
    fun frozen_stake_does_not_leave() {
        let world = disputed();
        cactus_payment::withdraw_stake(&acting(&world.orchestrator), world.orchestrator.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x3001d, location = cactus_mesh::cactus_payment)]
    fun a_frozen_stake_keeps_its_operator() {
        let world = disputed();
        cactus_payment::set_operator(
            &acting(&world.orchestrator), world.orchestrator.address, world.stranger.public_key, vector[]
        );
    }

    #[test]
    #[expected_failure(abort_code = 0x3001d, location = cactus_mesh::cactus_payment)]
    fun a_frozen_stake_takes_no_task() {
        let world = disputed();
        create(&world, &item(&world, 2));
    }

    // --- clients ---------------------------------------------------------------------------------------------------------

    #[test]
    fun money_of_a_client_comes_and_goes() {
        let world = new_world();
        let client = acting(&world.client);
        cactus_payment::request_withdrawal(&client, COIN);
        timestamp::fast_forward_seconds(1);
        cactus_payment::request_withdrawal(&client, 5);
        timestamp::fast_forward_seconds(3_599);
        cactus_payment::withdraw(&client);
        let (deposit, escrowed, withdrawing) = cactus_payment::money_of(world.client.address);
        assert!(deposit == 9 * COIN - 5 && escrowed == 0 && withdrawing == 5, 0);
        assert!(coins(world.client.address) == 91 * COIN, 1);
    }

    #[test]
    fun anybody_may_deposit_for_a_client_who_then_owns_it() {
        let world = new_world();
        let friend_ = new_actor();
        assert!(option::is_none(&cactus_payment::client(friend_.address)), 0);
        cactus_payment::deposit(&acting(&world.stranger), friend_.public_key, 5);
        cactus_payment::request_withdrawal(&acting(&friend_), 5);
        timestamp::fast_forward_seconds(3_600);
        cactus_payment::withdraw(&acting(&friend_));
        assert!(coins(friend_.address) == 5, 1);
        assert!(option::is_some(&cactus_payment::client(friend_.address)), 2);
    }

    #[test]
    fun a_client_may_replace_the_key_that_signs_its_consents() {
        let world = new_world();
        cactus_payment::register_client(&acting(&world.stranger), world.stranger.public_key);
        cactus_payment::register_client(&acting(&world.client), world.stranger.public_key);
        assert!(skipped(&world, item(&world, 1)) == 0x10039, 0);
        let item = item(&world, 1);
        settle_with(&world.router, &world, vector[item], vector[consent(&world.stranger, &item)]);
        assert!(deposit_of(&world) == 10 * COIN - PAID, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x10005, location = cactus_mesh::cactus_payment)]
    fun a_client_key_has_32_bytes() {
        let world = new_world();
        cactus_payment::register_client(&acting(&world.client), vector[]);
    }

    #[test]
    #[expected_failure(abort_code = 0x10005, location = cactus_mesh::cactus_payment)]
    fun a_deposit_names_a_whole_key() {
        let world = new_world();
        cactus_payment::deposit(&acting(&world.client), b"short", 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x10006, location = cactus_mesh::cactus_payment)]
    fun a_deposit_of_nothing() {
        let world = new_world();
        cactus_payment::deposit(&acting(&world.client), world.client.public_key, 0);
    }

    #[test]
    #[expected_failure(abort_code = 0x90007, location = cactus_mesh::cactus_payment)]
    fun a_deposit_needs_the_coins() {
        let world = new_world();
        cactus_payment::deposit(&acting(&world.client), world.client.public_key, 91 * COIN);
    }

    #[test]
    #[expected_failure(abort_code = 0x60028, location = cactus_mesh::cactus_payment)]
    fun a_stranger_has_no_deposit_to_request() {
        let world = new_world();
        cactus_payment::request_withdrawal(&acting(&world.stranger), 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x60028, location = cactus_mesh::cactus_payment)]
    fun a_stranger_has_nothing_to_withdraw() {
        let world = new_world();
        cactus_payment::withdraw(&acting(&world.stranger));
    }

    #[test]
    #[expected_failure(abort_code = 0x10006, location = cactus_mesh::cactus_payment)]
    fun a_withdrawal_of_nothing() {
        let world = new_world();
        cactus_payment::request_withdrawal(&acting(&world.client), 0);
    }

    #[test]
    #[expected_failure(abort_code = 0x90029, location = cactus_mesh::cactus_payment)]
    fun money_in_escrow_is_not_withdrawn() {
        let world = new_world();
        create(&world, &item(&world, 1));
        cactus_payment::request_withdrawal(&acting(&world.client), 10 * COIN);
    }

    #[test]
    #[expected_failure(abort_code = 0x9002a, location = cactus_mesh::cactus_payment)]
    fun withdrawals_are_bounded() {
        let world = new_world();
        for (i in 0..9) {
            cactus_payment::request_withdrawal(&acting(&world.client), 1);
        };
    }

    #[test]
    #[expected_failure(abort_code = 0x3002b, location = cactus_mesh::cactus_payment)]
    fun a_withdrawal_waits() {
        let world = new_world();
        cactus_payment::request_withdrawal(&acting(&world.client), 1);
        timestamp::fast_forward_seconds(3_599);
        cactus_payment::withdraw(&acting(&world.client));
    }

    // --- tasks in escrow -------------------------------------------------------------------------------------------------

    #[test]
    fun a_task_goes_through_escrow() {
        let world = new_world();
        let item = item(&world, 1);
        assert!(option::is_none(&cactus_payment::task(item.client, item.task_id)), 0);
        create(&world, &item);
        assert!(cactus_payment::nonce_used(item.client, item.nonce), 1);
        assert!(cactus_payment::task_status_for_test(item.client, item.task_id) == string::utf8(b"created"), 2);
        let (deposit, escrowed, _) = cactus_payment::money_of(item.client);
        assert!(deposit == 10 * COIN - 10_000 && escrowed == 10_000, 3);
        let (_, _, _, held) = cactus_payment::server_for_test(world.router.address);
        assert!(held == 10_000, 4);
        complete(&world, &item);
        assert!(cactus_payment::task_status_for_test(item.client, item.task_id) == string::utf8(b"completed"), 5);
        assert!(deposit_of(&world) == 10 * COIN - PAID, 6);
        let (_, _, _, held) = cactus_payment::server_for_test(world.router.address);
        assert!(held == 0, 7);
        assert!(coins(world.orchestrator.address) == 99 * COIN + PAID - 116, 8);
        assert!(cactus_payment::success_rate(world.orchestrator.address) == 10_000_000 / 11, 9);
    }

    #[test]
    fun a_failed_task_is_refunded_and_remembered() {
        let world = new_world();
        create(&world, &item(&world, 1));
        cactus_payment::fail_task(&acting(&world.router), world.client.address, task_id(1));
        let (_, failed, _, _) = cactus_payment::record_of(world.orchestrator.address);
        assert!(failed == 1 && deposit_of(&world) == 10 * COIN, 0);
        assert!(cactus_payment::task_status_for_test(world.client.address, task_id(1)) == string::utf8(b"failed"), 1);
        assert!(skipped(&world, item(&world, 1)) == 0x30034, 2);
    }

    #[test]
    fun anybody_times_a_late_task_out() {
        let world = new_world();
        create(&world, &item(&world, 1));
        timestamp::fast_forward_seconds(601);
        cactus_payment::timeout_task(&acting(&world.stranger), world.client.address, task_id(1));
        let (_, _, timed_out, _) = cactus_payment::record_of(world.orchestrator.address);
        assert!(timed_out == 1 && deposit_of(&world) == 10 * COIN, 0);
        assert!(cactus_payment::task_status_for_test(world.client.address, task_id(1)) == string::utf8(b"timed_out"), 1);
    }

    #[test]
    fun the_least_of_claim_formula_and_consent_is_paid() {
        let world = new_world();
        let cheap = item(&world, 1);
        cheap.price = 100;
        settle(&world, vector[cheap]);
        assert!(deposit_of(&world) == 10 * COIN - 100, 0);
        let poor = item(&world, 2);
        poor.max_price = 50;
        settle(&world, vector[poor]);
        assert!(deposit_of(&world) == 10 * COIN - 150, 1);
        assert!(cactus_payment::reward(5_000_000, 1_500, 900_000, 10_000) == 2_327, 2);
        assert!(cactus_payment::success_rate(@0x77) == 900_000, 3);
    }

    #[test]
    fun a_task_may_be_free() {
        let world = new_world();
        let free = item(&world, 1);
        free.max_price = 0;
        settle(&world, vector[free]);
        assert!(deposit_of(&world) == 10 * COIN, 0);
        assert!(cactus_payment::task_status_for_test(free.client, free.task_id) == string::utf8(b"completed"), 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x1003b, location = cactus_mesh::cactus_payment)]
    fun a_belated_task_is_not_created() {
        let world = new_world();
        let item = item(&world, 1);
        create_with(&world, &item, consent(&world.client, &item), NOW - 1, NOW + 600);
    }

    #[test]
    #[expected_failure(abort_code = 0x1003b, location = cactus_mesh::cactus_payment)]
    fun a_deadline_is_not_before_acceptance() {
        let world = new_world();
        let item = item(&world, 1);
        create_with(&world, &item, consent(&world.client, &item), NOW + 2, NOW + 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x1003b, location = cactus_mesh::cactus_payment)]
    fun a_deadline_is_not_beyond_the_longest_task() {
        let world = new_world();
        let item = item(&world, 1);
        create_with(&world, &item, consent(&world.client, &item), NOW, NOW + 3_601);
    }

    #[test]
    #[expected_failure(abort_code = 0x60015, location = cactus_mesh::cactus_payment)]
    fun a_task_needs_an_orchestrator() {
        let world = new_world();
        let item = item(&world, 1);
        item.orchestrator = @0x77;
        create(&world, &item);
    }

    #[test]
    #[expected_failure(abort_code = 0x30018, location = cactus_mesh::cactus_payment)]
    fun an_orchestrator_needs_its_stake() {
        let world = new_world();
        cactus_payment::request_unstake(&acting(&world.orchestrator), world.orchestrator.address, 1);
        create(&world, &item(&world, 1));
    }

    #[test]
    #[expected_failure(abort_code = 0x10039, location = cactus_mesh::cactus_payment)]
    fun no_task_without_the_clients_signature() {
        let world = new_world();
        let item = item(&world, 1);
        create_with(&world, &item, consent(&world.router, &item), NOW, NOW);
    }

    #[test]
    #[expected_failure(abort_code = 0x30038, location = cactus_mesh::cactus_payment)]
    fun no_task_on_a_consent_that_has_expired() {
        let world = new_world();
        let item = item(&world, 1);
        item.expires_at = NOW - 1;
        create(&world, &item);
    }

    #[test]
    #[expected_failure(abort_code = 0x80036, location = cactus_mesh::cactus_payment)]
    fun a_nonce_is_good_for_one_task() {
        let world = new_world();
        create(&world, &item(&world, 1));
        let item = item(&world, 2);
        item.nonce = 1;
        create(&world, &item);
    }

    #[test]
    #[expected_failure(abort_code = 0x2000f, location = cactus_mesh::cactus_payment)]
    fun a_server_holds_no_more_than_its_budget() {
        let world = new_world();
        let item = item(&world, 1);
        item.max_price = COIN + 1;
        create(&world, &item);
    }

    #[test]
    #[expected_failure(abort_code = 0x1003e, location = cactus_mesh::cactus_payment)]
    fun a_delegate_is_somebody_else() {
        let world = new_world();
        let item = item(&world, 1);
        create(&world, &item);
        item.delegate = item.orchestrator;
        complete(&world, &item);
    }

    #[test]
    #[expected_failure(abort_code = 0x2003f, location = cactus_mesh::cactus_payment)]
    fun a_claim_stays_within_what_the_contract_computes_with() {
        let world = new_world();
        let item = item(&world, 1);
        create(&world, &item);
        item.compute_ms = 3_600_001;
        complete(&world, &item);
    }

    /// Only a batch can name another orchestrator; it skips the item with this number.
    #[test]
    #[expected_failure(abort_code = 0x5003d, location = Self)]
    fun an_escrow_pays_nobody_but_its_orchestrator() {
        let world = new_world();
        let item = item(&world, 1);
        create(&world, &item);
        item.orchestrator = world.delegate.address;
        abort skipped(&world, item)
    }

    #[test]
    #[expected_failure(abort_code = 0x10039, location = cactus_mesh::cactus_payment)]
    fun a_signature_has_64_bytes() {
        let world = new_world();
        create_with(&world, &item(&world, 1), b"short", NOW, NOW);
    }

    #[test]
    #[expected_failure(abort_code = 0x60033, location = cactus_mesh::cactus_payment)]
    fun only_a_created_task_is_completed() {
        let world = new_world();
        complete(&world, &item(&world, 1));
    }

    #[test]
    #[expected_failure(abort_code = 0x60033, location = cactus_mesh::cactus_payment)]
    fun only_a_created_task_times_out() {
        let world = new_world();
        cactus_payment::timeout_task(&acting(&world.stranger), world.client.address, task_id(1));
    }

    #[test]
    #[expected_failure(abort_code = 0x80035, location = cactus_mesh::cactus_payment)]
    fun a_task_is_completed_once() {
        let world = new_world();
        create(&world, &item(&world, 1));
        complete(&world, &item(&world, 1));
        complete(&world, &item(&world, 1));
    }

    #[test]
    #[expected_failure(abort_code = 0x30034, location = cactus_mesh::cactus_payment)]
    fun a_failed_task_is_not_completed() {
        let world = new_world();
        create(&world, &item(&world, 1));
        cactus_payment::fail_task(&acting(&world.router), world.client.address, task_id(1));
        complete(&world, &item(&world, 1));
    }

    #[test]
    #[expected_failure(abort_code = 0x5003c, location = cactus_mesh::cactus_payment)]
    fun only_its_server_completes_a_task() {
        let world = new_world();
        second_router(&world);
        create(&world, &item(&world, 1));
        let item = item(&world, 1);
        complete_with(&world.stranger, &item, claim(&world.orchestrator, &item));
    }

    #[test]
    #[expected_failure(abort_code = 0x5003c, location = cactus_mesh::cactus_payment)]
    fun only_its_server_fails_a_task() {
        let world = new_world();
        second_router(&world);
        create(&world, &item(&world, 1));
        cactus_payment::fail_task(&acting(&world.stranger), world.client.address, task_id(1));
    }

    // --- tasks that go on with another orchestrator -------------------------------------------------------------------

    fun reassign(world: &World, router: &Actor, orchestrator: address) {
        cactus_payment::reassign_task(&acting(router), world.client.address, task_id(1), orchestrator);
    }

    #[test]
    fun a_task_goes_on_with_another_orchestrator_which_is_paid_from_the_same_escrow() {
        let world = new_world();
        let item = item(&world, 1);
        create(&world, &item);
        reassign(&world, &world.router, world.delegate.address);
        let (_, failed, _, _) = cactus_payment::record_of(world.orchestrator.address);
        let (_, escrowed, _) = cactus_payment::money_of(world.client.address);
        assert!(failed == 1 && escrowed == 10_000, 0);
        item.orchestrator = world.delegate.address;
        complete_with(&world.router, &item, claim(&world.delegate, &item));
        let (completed, failed, _, _) = cactus_payment::record_of(world.delegate.address);
        assert!(completed == 1 && failed == 0, 1);
        assert!(coins(world.delegate.address) == 99 * COIN + 2_211, 2);
        assert!(coins(world.orchestrator.address) == 99 * COIN, 3);
    }

    #[test]
    #[expected_failure(abort_code = 0x1003a, location = cactus_mesh::cactus_payment)]
    fun who_lost_a_task_is_not_paid_for_it() {
        let world = new_world();
        create(&world, &item(&world, 1));
        reassign(&world, &world.router, world.delegate.address);
        complete(&world, &item(&world, 1));
    }

    #[test]
    #[expected_failure(abort_code = 0x80042, location = cactus_mesh::cactus_payment)]
    fun a_task_is_not_reassigned_to_the_same() {
        let world = new_world();
        create(&world, &item(&world, 1));
        reassign(&world, &world.router, world.orchestrator.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x5003c, location = cactus_mesh::cactus_payment)]
    fun only_its_server_reassigns_a_task() {
        let world = new_world();
        second_router(&world);
        create(&world, &item(&world, 1));
        reassign(&world, &world.stranger, world.delegate.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x1003b, location = cactus_mesh::cactus_payment)]
    fun after_its_deadline_a_task_stays_where_it_is() {
        let world = new_world();
        create(&world, &item(&world, 1));
        timestamp::fast_forward_seconds(601);
        reassign(&world, &world.router, world.delegate.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x30018, location = cactus_mesh::cactus_payment)]
    fun who_is_leaving_takes_over_nothing() {
        let world = new_world();
        create(&world, &item(&world, 1));
        cactus_payment::request_unstake(&acting(&world.delegate), world.delegate.address, COIN);
        reassign(&world, &world.router, world.delegate.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x30004, location = cactus_mesh::cactus_payment)]
    fun a_pause_stops_reassign_task() {
        let world = new_world();
        create(&world, &item(&world, 1));
        cactus_payment::set_paused(&admin(), true);
        reassign(&world, &world.router, world.delegate.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x30034, location = cactus_mesh::cactus_payment)]
    fun a_failed_task_is_not_reassigned() {
        let world = new_world();
        create(&world, &item(&world, 1));
        cactus_payment::fail_task(&acting(&world.router), world.client.address, task_id(1));
        reassign(&world, &world.router, world.delegate.address);
    }

    #[test]
    #[expected_failure(abort_code = 0x30040, location = cactus_mesh::cactus_payment)]
    fun a_task_times_out_after_its_deadline() {
        let world = new_world();
        create(&world, &item(&world, 1));
        timestamp::fast_forward_seconds(600);
        cactus_payment::timeout_task(&acting(&world.stranger), world.client.address, task_id(1));
    }

    #[test]
    #[expected_failure(abort_code = 0x1003a, location = cactus_mesh::cactus_payment)]
    fun no_pay_without_the_orchestrators_signature() {
        let world = new_world();
        create(&world, &item(&world, 1));
        let item = item(&world, 1);
        complete_with(&world.router, &item, claim(&world.delegate, &item));
    }

    // --- batches ---------------------------------------------------------------------------------------------------------

    #[test]
    fun fifty_items_are_settled_at_once() {
        let world = new_world();
        let items = vector[];
        for (number in 0..50) {
            vector::push_back(&mut items, item(&world, number));
        };
        settle(&world, items);
        let (completed, _, _, _) = cactus_payment::record_of(world.orchestrator.address);
        assert!(completed == 50, 0);
        assert!(vector::is_empty(&cactus_payment::skip_reasons()), 1);
    }

    #[test]
    fun a_bad_item_is_skipped_and_aborts_nothing() {
        let world = new_world();
        let bad = item(&world, 1);
        bad.task_id = b"short";
        create(&world, &item(&world, 2));
        settle(&world, vector[bad, item(&world, 2), item(&world, 3)]);
        let (completed, _, _, _) = cactus_payment::record_of(world.orchestrator.address);
        assert!(completed == 2 && cactus_payment::skip_reasons() == vector[0x10037], 0);
        assert!(skipped(&world, item(&world, 2)) == 0x80035, 1);
        assert!(skipped(&world, item(&world, 3)) == 0x80035, 2);
    }

    #[test]
    fun every_reason_to_skip_an_item_of_a_deposit() {
        let world = new_world();
        let item = item(&world, 1);
        item.client = world.stranger.address;
        assert!(skipped(&world, item) == 0x60028, 0);
        let item = item(&world, 1);
        item.expires_at = NOW - 1;
        assert!(skipped(&world, item) == 0x30038, 1);
        settle(&world, vector[item(&world, 1)]);
        let item = item(&world, 2);
        item.nonce = 1;
        assert!(skipped(&world, item) == 0x80036, 2);
        let item = item(&world, 2);
        item.max_price = 11 * COIN;
        assert!(skipped(&world, item) == 0x90029, 3);
        item.max_price = COIN + 1;
        assert!(skipped(&world, item) == 0x2000f, 4);
        let item = item(&world, 2);
        settle_with(&world.router, &world, vector[item], vector[consent(&world.stranger, &item)]);
        assert!(cactus_payment::skip_reasons() == vector[0x60028, 0x30038, 0x80036, 0x90029, 0x2000f, 0x10039], 5);
        cactus_payment::request_unstake(&acting(&world.orchestrator), world.orchestrator.address, COIN);
        settle(&world, vector[item(&world, 2)]);
        timestamp::fast_forward_seconds(604_800);
        cactus_payment::withdraw_stake(&acting(&world.orchestrator), world.orchestrator.address);
        assert!(skipped(&world, item(&world, 3)) == 0x30018, 6);
    }

    #[test]
    fun nobody_is_paid_whose_stake_leaves_before_a_doubt_can_be_raised() {
        let world = new_world();
        let operator = world.orchestrator.address;
        cactus_payment::request_unstake(&acting(&world.orchestrator), operator, COIN);
        timestamp::fast_forward_seconds(604_800 - 86_400);
        settle(&world, vector[item(&world, 1)]);
        let (completed, _, _, _) = cactus_payment::record_of(operator);
        assert!(completed == 1, 0);
        timestamp::fast_forward_seconds(1);
        assert!(skipped(&world, item(&world, 2)) == 0x30018, 1);
        cactus_payment::cancel_unstake(&acting(&world.orchestrator), operator);
        settle(&world, vector[item(&world, 2)]);
        let (completed, _, _, _) = cactus_payment::record_of(operator);
        assert!(completed == 2, 2);
    }

    #[test]
    fun every_reason_to_skip_a_claim() {
        let world = new_world();
        let item = item(&world, 1);
        item.model_digest = b"short";
        assert!(skipped(&world, item) == 0x10037, 0);
        let item = item(&world, 1);
        item.result_hash = b"short";
        assert!(skipped(&world, item) == 0x10037, 1);
        let item = item(&world, 1);
        item.orchestrator = world.stranger.address;
        assert!(skipped(&world, item) == 0x60015, 2);
        let item = item(&world, 1);
        item.complexity = 1_000_000_000_000_001;
        assert!(skipped(&world, item) == 0x2003f, 3);
        let item = item(&world, 1);
        item.compute_ms = 3_600_001;
        assert!(skipped(&world, item) == 0x2003f, 4);
        let item = item(&world, 1);
        item.quality_ppm = 1_000_001;
        assert!(skipped(&world, item) == 0x2003f, 5);
        let item = item(&world, 1);
        item.orchestrator = world.delegate.address;
        assert!(skipped(&world, item) == 0x1003a, 6);
    }

    #[test]
    fun every_way_in_which_a_delegate_does_not_fit() {
        let world = new_world();
        let item = item(&world, 1);
        item.delegate_bps = 1;
        assert!(skipped(&world, item) == 0x1003e, 0);
        item.delegate = world.stranger.address;
        assert!(skipped(&world, item) == 0x1003e, 1);
        item.delegate = world.orchestrator.address;
        assert!(skipped(&world, item) == 0x1003e, 2);
        item.delegate = world.delegate.address;
        item.delegate_bps = 9_501;
        assert!(skipped(&world, item) == 0x1003e, 3);
    }

    #[test]
    fun an_escrowed_item_is_its_servers_and_its_orchestrators() {
        let world = new_world();
        second_router(&world);
        create(&world, &item(&world, 1));
        let item = item(&world, 1);
        item.orchestrator = world.delegate.address;
        assert!(skipped(&world, item) == 0x5003d, 0);
        let item = item(&world, 1);
        item.router = world.stranger.address;
        let consents = vector[consent(&world.client, &item)];
        settle_with(&world.stranger, &world, vector[item], consents);
        assert!(vector::pop_back(&mut cactus_payment::skip_reasons()) == 0x5003c, 1);
        complete(&world, &item(&world, 1));
        settle_with(&world.stranger, &world, vector[item], consents);
        assert!(vector::pop_back(&mut cactus_payment::skip_reasons()) == 0x80032, 2);
    }

    #[test]
    #[expected_failure(abort_code = 0x80032, location = cactus_mesh::cactus_payment)]
    fun a_task_id_is_created_once() {
        let world = new_world();
        create(&world, &item(&world, 1));
        create(&world, &item(&world, 1));
    }

    #[test]
    #[expected_failure(abort_code = 0x10041, location = cactus_mesh::cactus_payment)]
    fun a_batch_is_not_empty() {
        let world = new_world();
        settle(&world, vector[]);
    }

    #[test]
    #[expected_failure(abort_code = 0x10041, location = cactus_mesh::cactus_payment)]
    fun a_batch_has_at_most_50_items() {
        let world = new_world();
        let items = vector[];
        for (number in 0..51) {
            vector::push_back(&mut items, item(&world, number));
        };
        settle(&world, items);
    }

    #[test]
    #[expected_failure(abort_code = 0x10041, location = cactus_mesh::cactus_payment)]
    fun the_columns_of_a_batch_are_equally_long() {
        let world = new_world();
        settle_with(&world.router, &world, vector[item(&world, 1)], vector[]);
    }

    // --- disputes --------------------------------------------------------------------------------------------------------

    #[test]
    fun an_uncontested_dispute_is_upheld_and_makes_the_client_whole() {
        let world = disputed();
        assert!(status(&world) == b"open", 0);
        timestamp::fast_forward_seconds(86_401);
        let treasury = coins(@cactus_mesh);
        finalize(&world);
        assert!(status(&world) == b"upheld", 1);
        assert!(deposit_of(&world) == 10 * COIN && coins(world.client.address) == 90 * COIN, 2);
        assert!(coins(@cactus_mesh) == treasury + SLASH - PAID, 3);
        let (stake, unbonding, bonds) = cactus_payment::stake_for_test(world.orchestrator.address);
        assert!(stake == COIN - SLASH && unbonding == 0 && bonds == 0, 4);
        assert!(cactus_payment::slashed(world.orchestrator.address, world.client.address, task_id(1)), 5);
    }

    #[test]
    fun a_dismissed_dispute_gives_the_bond_to_the_owner() {
        let world = disputed();
        let owner = coins(world.orchestrator.address);
        contest(&world);
        assert!(status(&world) == b"contested", 0);
        resolve(&world, false);
        assert!(status(&world) == b"dismissed", 1);
        assert!(coins(world.orchestrator.address) == owner + BOND && stake_of(&world.orchestrator) == COIN, 2);
    }

    #[test]
    fun the_arbiter_may_uphold_a_contested_dispute() {
        let world = disputed();
        contest(&world);
        resolve(&world, true);
        assert!(coins(world.client.address) == 90 * COIN && stake_of(&world.orchestrator) == COIN - SLASH, 0);
    }

    #[test]
    fun what_the_arbiter_leaves_undecided_lapses() {
        let world = disputed();
        contest(&world);
        timestamp::fast_forward_seconds(604_801);
        finalize(&world);
        assert!(status(&world) == b"lapsed", 0);
        assert!(coins(world.client.address) == 90 * COIN && stake_of(&world.orchestrator) == COIN, 1);
    }

    #[test]
    fun a_server_may_dispute_and_a_replaced_operator_does_not_escape() {
        let world = new_world();
        let new = new_actor();
        settle(&world, vector[item(&world, 1)]);
        let agreed = operator_consent(&new, &world.orchestrator);
        cactus_payment::set_operator(
            &acting(&world.orchestrator), world.orchestrator.address, new.public_key, agreed
        );
        cactus_payment::open_dispute(&acting(&world.router), world.client.address, task_id(1), bytes32(9));
        assert!(option::is_none(&cactus_payment::dispute(world.client.address, task_id(2))), 0);
        timestamp::fast_forward_seconds(86_401);
        finalize(&world);
        let (_, _, _, slashed) = cactus_payment::record_of(new.address);
        assert!(slashed == 1 && stake_of(&new) == COIN - SLASH, 1);
    }

    #[test]
    fun unbonding_stake_is_slashed_too_the_oldest_first() {
        let world = disputed();
        let (owner, operator) = (acting(&world.orchestrator), world.orchestrator.address);
        cactus_payment::request_unstake(&owner, operator, 5);
        cactus_payment::request_unstake(&owner, operator, COIN - SLASH);
        cactus_payment::request_unstake(&owner, operator, SLASH - 15);
        timestamp::fast_forward_seconds(86_401);
        finalize(&world);
        let (stake, unbonding, _) = cactus_payment::stake_for_test(operator);
        assert!(stake == 0 && unbonding == COIN - SLASH, 0);
        timestamp::fast_forward_seconds(604_800);
        cactus_payment::withdraw_stake(&owner, operator);
        assert!(vaults::balance_for_test(cactus_payment::stake_vault_for_test(operator)) == 0, 1);
    }

    #[test]
    fun a_stake_smaller_than_the_slash_pays_the_client_first() {
        let world = disputed();
        set_param(16, 100_000_000_000_000);
        timestamp::fast_forward_seconds(86_401);
        finalize(&world);
        let (amount, to_client) = cactus_payment::slashed_for_test();
        assert!(amount == COIN && to_client == PAID && stake_of(&world.orchestrator) == 0, 0);
    }

    #[test]
    #[expected_failure(abort_code = 0x60033, location = cactus_mesh::cactus_payment)]
    fun only_a_known_task_is_disputed() {
        let world = new_world();
        dispute(&world, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x30049, location = cactus_mesh::cactus_payment)]
    fun only_a_completed_task_is_disputed() {
        let world = new_world();
        create(&world, &item(&world, 1));
        dispute(&world, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x10037, location = cactus_mesh::cactus_payment)]
    fun evidence_is_a_hash() {
        let world = new_world();
        settle(&world, vector[item(&world, 1)]);
        cactus_payment::open_dispute(&acting(&world.client), world.client.address, task_id(1), b"short");
    }

    #[test]
    #[expected_failure(abort_code = 0x5004a, location = cactus_mesh::cactus_payment)]
    fun only_the_client_and_the_server_dispute() {
        let world = new_world();
        settle(&world, vector[item(&world, 1)]);
        cactus_payment::open_dispute(&acting(&world.stranger), world.client.address, task_id(1), bytes32(9));
    }

    #[test]
    #[expected_failure(abort_code = 0x80048, location = cactus_mesh::cactus_payment)]
    fun a_task_is_disputed_once() {
        let world = disputed();
        dispute(&world, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x3004b, location = cactus_mesh::cactus_payment)]
    fun a_task_is_disputed_in_time() {
        let world = new_world();
        settle(&world, vector[item(&world, 1)]);
        timestamp::fast_forward_seconds(86_401);
        dispute(&world, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x90007, location = cactus_mesh::cactus_payment)]
    fun a_bond_needs_the_coins() {
        let world = new_world();
        settle(&world, vector[item(&world, 1)]);
        cactus_payment::deposit(&acting(&world.client), world.stranger.public_key, 90 * COIN);
        dispute(&world, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x60047, location = cactus_mesh::cactus_payment)]
    fun there_is_no_dispute_to_contest() {
        let world = new_world();
        contest(&world);
    }

    #[test]
    #[expected_failure(abort_code = 0x60047, location = cactus_mesh::cactus_payment)]
    fun there_is_no_dispute_to_resolve() {
        let world = new_world();
        resolve(&world, true);
    }

    #[test]
    #[expected_failure(abort_code = 0x60047, location = cactus_mesh::cactus_payment)]
    fun there_is_no_dispute_to_finalize() {
        let world = new_world();
        finalize(&world);
    }

    #[test]
    #[expected_failure(abort_code = 0x50016, location = cactus_mesh::cactus_payment)]
    fun only_the_owner_contests() {
        let world = disputed();
        cactus_payment::contest_dispute(&acting(&world.client), world.client.address, task_id(1), bytes32(8));
    }

    #[test]
    #[expected_failure(abort_code = 0x10037, location = cactus_mesh::cactus_payment)]
    fun an_answer_is_a_hash() {
        let world = disputed();
        cactus_payment::contest_dispute(&acting(&world.orchestrator), world.client.address, task_id(1), b"short");
    }

    #[test]
    #[expected_failure(abort_code = 0x3004d, location = cactus_mesh::cactus_payment)]
    fun a_dispute_is_contested_once() {
        let world = disputed();
        contest(&world);
        contest(&world);
    }

    #[test]
    #[expected_failure(abort_code = 0x3004c, location = cactus_mesh::cactus_payment)]
    fun a_dispute_is_contested_in_time() {
        let world = disputed();
        timestamp::fast_forward_seconds(86_401);
        contest(&world);
    }

    #[test]
    #[expected_failure(abort_code = 0x50046, location = cactus_mesh::cactus_payment)]
    fun only_the_arbiter_resolves() {
        let world = disputed();
        contest(&world);
        cactus_payment::set_arbiter(&admin(), @0x88);
        resolve(&world, true);
    }

    #[test]
    #[expected_failure(abort_code = 0x3004d, location = cactus_mesh::cactus_payment)]
    fun only_a_contested_dispute_is_resolved() {
        let world = disputed();
        resolve(&world, true);
    }

    #[test]
    #[expected_failure(abort_code = 0x3004d, location = cactus_mesh::cactus_payment)]
    fun a_dispute_is_closed_once() {
        let world = disputed();
        timestamp::fast_forward_seconds(86_401);
        finalize(&world);
        finalize(&world);
    }

    #[test]
    #[expected_failure(abort_code = 0x30040, location = cactus_mesh::cactus_payment)]
    fun a_dispute_is_finalized_after_its_deadline() {
        let world = disputed();
        timestamp::fast_forward_seconds(86_400);
        finalize(&world);
    }

    // --- equivocation ----------------------------------------------------------------------------------------------------

    #[test]
    fun anybody_may_prove_that_an_operator_signed_two_results() {
        let world = new_world();
        report(&world, item(&world, 1));
        let (amount, to_client) = cactus_payment::slashed_for_test();
        assert!(amount == SLASH && to_client == 0 && stake_of(&world.orchestrator) == COIN - SLASH, 0);
    }

    #[test]
    fun an_equivocation_makes_a_client_that_paid_whole() {
        let world = new_world();
        settle(&world, vector[item(&world, 1)]);
        report(&world, item(&world, 1));
        let (amount, to_client) = cactus_payment::slashed_for_test();
        assert!(amount == SLASH && to_client == PAID && deposit_of(&world) == 10 * COIN, 0);
    }

    #[test]
    fun a_claim_on_a_task_that_was_not_paid_compensates_nobody() {
        let world = new_world();
        create(&world, &item(&world, 1));
        report(&world, item(&world, 1));
        let (_, to_client) = cactus_payment::slashed_for_test();
        assert!(to_client == 0, 0);
    }

    #[test]
    fun one_incident_is_punished_once_also_when_it_was_disputed() {
        let world = disputed();
        report(&world, item(&world, 1));
        timestamp::fast_forward_seconds(86_401);
        finalize(&world);
        assert!(status(&world) == b"upheld" && stake_of(&world.orchestrator) == COIN - SLASH, 0);
    }

    #[test]
    #[expected_failure(abort_code = 0x8004e, location = cactus_mesh::cactus_payment)]
    fun an_equivocation_is_punished_once() {
        let world = new_world();
        report(&world, item(&world, 1));
        report(&world, item(&world, 1));
    }

    #[test]
    #[expected_failure(abort_code = 0x8004e, location = cactus_mesh::cactus_payment)]
    fun a_punished_task_is_not_disputed() {
        let world = new_world();
        settle(&world, vector[item(&world, 1)]);
        report(&world, item(&world, 1));
        dispute(&world, 1);
    }

    #[test]
    #[expected_failure(abort_code = 0x1004f, location = cactus_mesh::cactus_payment)]
    fun the_same_result_twice_proves_nothing() {
        let world = new_world();
        report_results(&world, item(&world, 1), world.orchestrator.public_key, bytes32(1), bytes32(1));
    }

    #[test]
    #[expected_failure(abort_code = 0x10005, location = cactus_mesh::cactus_payment)]
    fun a_proof_names_a_whole_key() {
        let world = new_world();
        report_results(&world, item(&world, 1), b"short", bytes32(1), bytes32(2));
    }

    #[test]
    #[expected_failure(abort_code = 0x10037, location = cactus_mesh::cactus_payment)]
    fun a_proof_names_a_whole_task_id() {
        let world = new_world();
        let item = item(&world, 1);
        item.task_id = b"short";
        report(&world, item);
    }

    #[test]
    #[expected_failure(abort_code = 0x10037, location = cactus_mesh::cactus_payment)]
    fun a_proof_names_whole_results() {
        let world = new_world();
        report_results(&world, item(&world, 1), world.orchestrator.public_key, bytes32(1), b"short");
    }

    #[test]
    #[expected_failure(abort_code = 0x60015, location = cactus_mesh::cactus_payment)]
    fun a_proof_is_against_an_orchestrator() {
        let world = new_world();
        report_results(&world, item(&world, 1), world.stranger.public_key, bytes32(1), bytes32(2));
    }

    #[test]
    #[expected_failure(abort_code = 0x1003a, location = cactus_mesh::cactus_payment)]
    fun a_proof_is_signed_by_whom_it_accuses() {
        let world = new_world();
        report_results(&world, item(&world, 1), world.delegate.public_key, bytes32(1), bytes32(2));
    }

    #[test]
    #[expected_failure(abort_code = 0x10041, location = cactus_mesh::cactus_payment)]
    fun a_proof_has_two_claims() {
        let world = new_world();
        cactus_payment::report_equivocation(
            &acting(&world.stranger), world.client.address, world.router.address, world.orchestrator.public_key, task_id(1),
            vector[NOBODY], vector[0], vector[bytes32(1)], vector[0], vector[0], vector[0], vector[bytes32(1)], vector[vector[]]
        );
    }
}
