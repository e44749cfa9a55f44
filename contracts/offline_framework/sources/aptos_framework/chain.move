/// Chain id, clock, events and signers, as far as the contract and its tests need them.
module aptos_framework::chain_id {
    friend aptos_framework::genesis;

    struct ChainId has key { id: u8 }

    public(friend) fun initialize(aptos_framework: &signer, id: u8) {
        move_to(aptos_framework, ChainId { id });
    }

    public(friend) fun set(id: u8) acquires ChainId {
        borrow_global_mut<ChainId>(@aptos_framework).id = id;
    }

    #[test_only]
    public fun initialize_for_test(aptos_framework: &signer, id: u8) {
        if (!exists<ChainId>(@aptos_framework)) initialize(aptos_framework, id);
    }

    public fun get(): u8 acquires ChainId {
        borrow_global<ChainId>(@aptos_framework).id
    }
}

module aptos_framework::timestamp {
    friend aptos_framework::genesis;

    const MICRO_CONVERSION_FACTOR: u64 = 1_000_000;

    struct CurrentTimeMicroseconds has key { microseconds: u64 }

    public(friend) fun set_time_has_started(aptos_framework: &signer) {
        move_to(aptos_framework, CurrentTimeMicroseconds { microseconds: 0 });
    }

    public(friend) fun set_seconds(seconds: u64) acquires CurrentTimeMicroseconds {
        borrow_global_mut<CurrentTimeMicroseconds>(@aptos_framework).microseconds = seconds * MICRO_CONVERSION_FACTOR;
    }

    public fun now_seconds(): u64 acquires CurrentTimeMicroseconds {
        borrow_global<CurrentTimeMicroseconds>(@aptos_framework).microseconds / MICRO_CONVERSION_FACTOR
    }

    #[test_only]
    public fun set_time_has_started_for_testing(account: &signer) {
        if (!exists<CurrentTimeMicroseconds>(@aptos_framework)) set_time_has_started(account);
    }

    #[test_only]
    public fun update_global_time_for_test_secs(timestamp_seconds: u64) acquires CurrentTimeMicroseconds {
        set_seconds(timestamp_seconds);
    }

    #[test_only]
    public fun fast_forward_seconds(timestamp_seconds: u64) acquires CurrentTimeMicroseconds {
        set_seconds(now_seconds() + timestamp_seconds);
    }
}

module aptos_framework::event {
    native fun emit_event<T: drop>(msg: &T);

    public fun emit<T: store + drop>(msg: T) {
        emit_event(&msg);
    }

    #[test_only]
    native public fun emitted_events<T: drop + store>(): vector<T>;

    #[test_only]
    public fun was_event_emitted<T: drop + store>(msg: &T): bool {
        std::vector::contains(&emitted_events<T>(), msg)
    }
}

module aptos_framework::account {
    friend aptos_framework::object;
    friend aptos_framework::aptos_coin;

    native public(friend) fun create_signer(addr: address): signer;

    #[test_only]
    public fun create_signer_for_test(addr: address): signer {
        create_signer(addr)
    }
}

/// For the Move VM in the differential test only: what governance does on a chain, and a faucet.
module aptos_framework::genesis {
    use aptos_framework::aptos_coin;
    use aptos_framework::chain_id;
    use aptos_framework::primary_fungible_store;
    use aptos_framework::timestamp;

    fun init_module(aptos_framework: &signer) {
        chain_id::initialize(aptos_framework, 0);
        timestamp::set_time_has_started(aptos_framework);
        aptos_coin::initialize();
    }

    entry fun start(id: u8, now_seconds: u64) {
        chain_id::set(id);
        timestamp::set_seconds(now_seconds);
    }

    entry fun set_time(now_seconds: u64) {
        timestamp::set_seconds(now_seconds);
    }

    entry fun mint(to: address, amount: u64) {
        primary_fungible_store::deposit(to, aptos_coin::mint(amount));
    }
}
