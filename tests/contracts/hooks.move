/// Doors for the differential test, which runs the contract in a Move VM that publishes at 0x1 only.
module cactus_mesh::hooks {
    use std::bcs;
    use std::option::Option;
    use std::vector;
    use aptos_framework::fungible_asset::{Self, FungibleStore, Metadata};
    use aptos_framework::object;
    use aptos_framework::primary_fungible_store;
    use cactus_mesh::cactus_payment;
    use cactus_mesh::signed;
    use cactus_mesh::vaults;

    /// Everything that the views say about some accounts and tasks.
    struct Snapshot has copy, drop {
        config: cactus_payment::Config,
        params: vector<u64>,
        orchestrators: vector<Option<cactus_payment::Orchestrator>>,
        servers: vector<Option<cactus_payment::ServerView>>,
        clients: vector<Option<cactus_payment::Client>>,
        rates: vector<u64>,
        coins: vector<u64>,
        client_vaults: vector<u64>,
        stake_vaults: vector<u64>,
        tasks: vector<Option<cactus_payment::TaskView>>,
        disputes: vector<Option<cactus_payment::DisputeView>>,
        slashed: vector<bool>,
        nonces: vector<bool>
    }

    #[view]
    /// Task `i` is `task_clients[i]`, `task_ids[i]`; its nonce and its punished operator are asked for too.
    public fun snapshot(
        accounts: vector<address>,
        task_clients: vector<address>,
        task_ids: vector<vector<u8>>,
        nonces: vector<u64>,
        operators: vector<address>
    ): Snapshot {
        let all = Snapshot {
            config: cactus_payment::config(),
            params: cactus_payment::params(),
            orchestrators: vector[],
            servers: vector[],
            clients: vector[],
            rates: vector[],
            coins: vector[],
            client_vaults: vector[],
            stake_vaults: vector[],
            tasks: vector[],
            disputes: vector[],
            slashed: vector[],
            nonces: vector[]
        };
        for (i in 0..vector::length(&accounts)) {
            let account = *vector::borrow(&accounts, i);
            vector::push_back(&mut all.orchestrators, cactus_payment::orchestrator(account));
            vector::push_back(&mut all.servers, cactus_payment::server(account));
            vector::push_back(&mut all.clients, cactus_payment::client(account));
            vector::push_back(&mut all.rates, cactus_payment::success_rate(account));
            let coins = primary_fungible_store::balance(account, object::address_to_object<Metadata>(@0xa));
            vector::push_back(&mut all.coins, coins);
            vector::push_back(&mut all.client_vaults, held(vaults::of_client(account)));
            vector::push_back(&mut all.stake_vaults, held(stake_vault(account)));
        };
        for (i in 0..vector::length(&task_ids)) {
            let (client, task_id) = (*vector::borrow(&task_clients, i), *vector::borrow(&task_ids, i));
            vector::push_back(&mut all.tasks, cactus_payment::task(client, task_id));
            vector::push_back(&mut all.disputes, cactus_payment::dispute(client, task_id));
            vector::push_back(
                &mut all.slashed, cactus_payment::slashed(*vector::borrow(&operators, i), client, task_id)
            );
            vector::push_back(&mut all.nonces, cactus_payment::nonce_used(client, *vector::borrow(&nonces, i)));
        };
        all
    }

    fun held(vault: address): u64 {
        if (!fungible_asset::store_exists(vault)) return 0;
        fungible_asset::balance(object::address_to_object<FungibleStore>(vault))
    }

    // --- vectors --------------------------------------------------------------------------------------------------

    #[view]
    public fun consent_bytes(
        client: address, router: address, task_id: vector<u8>, nonce: u64, max_price: u64, expires_at: u64
    ): vector<u8> {
        signed::consent_bytes(client, router, task_id, nonce, max_price, expires_at)
    }

    #[view]
    public fun claim_bytes(
        client: address,
        router: address,
        orchestrator: address,
        delegate: address,
        delegate_bps: u64,
        task_id: vector<u8>,
        model_digest: vector<u8>,
        complexity: u64,
        compute_ms: u64,
        price: u64,
        result_hash: vector<u8>
    ): vector<u8> {
        signed::claim_bytes(
            client, router, orchestrator, delegate, delegate_bps, task_id, model_digest, complexity, compute_ms, price,
            result_hash
        )
    }

    #[view]
    public fun operator_bytes(owner: address, operator: address): vector<u8> {
        signed::operator_bytes(owner, operator)
    }

    #[view]
    public fun account_of(public_key: vector<u8>): address {
        signed::account_of(public_key)
    }

    #[view]
    public fun client_vault(account: address): address {
        vaults::of_client(account)
    }

    #[view]
    public fun stake_vault(account: address): address {
        let root = object::create_object_address(&@cactus_mesh, b"cactus_payment");
        let seed = b"stake";
        vector::append(&mut seed, bcs::to_bytes(&account));
        object::create_object_address(&root, seed)
    }

    #[view]
    public fun verifies(public_key: vector<u8>, message: vector<u8>, signature: vector<u8>): bool {
        signed::verifies(public_key, message, signature)
    }

    #[view]
    public fun reward_parts(
        gross: u64, max_price: u64, fee_bps: u64, delegate_bps: u64
    ): cactus_mesh::rewards::Split {
        cactus_mesh::rewards::split(gross, max_price, fee_bps, delegate_bps)
    }
}

/// The VM calls this after it has published modules; there is nothing to note.
module std::code {
    entry fun init_genesis(_vm: &signer, _modules: vector<std::string::String>, _publishers: vector<address>) {}
}
