/// Where the contract's money lies: one fungible store for each stake and each client, in objects that no key signs for.
///
/// The vaults belong to a root object whose only ExtendRef is kept here, and the root belongs to nobody: its ownership
/// is given to 0x0 at publication.  Fungible stores obey *indirect* owners, so a root that the publisher owned would let
/// the publisher's key empty every vault.  Accounting is the caller's.
module cactus_mesh::vaults {
    use std::bcs;
    use std::vector;
    use aptos_framework::fungible_asset::{Self, FungibleStore, Metadata};
    use aptos_framework::object::{Self, ConstructorRef, ExtendRef, Object};
    use aptos_framework::primary_fungible_store;

    const ROOT_SEED: vector<u8> = b"cactus_payment";
    const CLIENT: vector<u8> = b"client";
    const STAKE: vector<u8> = b"stake";
    const NOBODY: address = @0x0;

    struct Root has key {
        extend_ref: ExtendRef,
        address: address,
        asset: Object<Metadata>
    }

    public(package) fun initialize(publisher: &signer, asset: address) {
        let root = object::create_named_object(publisher, ROOT_SEED);
        let address = object::address_from_constructor_ref(&root);
        object::transfer_raw(publisher, address, NOBODY);
        keep(&root);
        move_to(
            publisher,
            Root {
                extend_ref: object::generate_extend_ref(&root),
                address,
                asset: object::address_to_object<Metadata>(asset)
            }
        );
    }

    /// Objects of ours never change hands.
    fun keep(object: &ConstructorRef) {
        object::disable_ungated_transfer(&object::generate_transfer_ref(object));
    }

    public(package) fun of_client(account: address): address acquires Root {
        object::create_object_address(&borrow_global<Root>(@cactus_mesh).address, seed(CLIENT, account))
    }

    /// Create the vault `of_client`; its signer may keep a record there.
    public(package) fun open_for_client(account: address): signer acquires Root {
        open(CLIENT, account)
    }

    /// Create the vault of a stake, named after its first operator; its signer may keep a record there.
    public(package) fun open_for_stake(operator: address): signer acquires Root {
        open(STAKE, operator)
    }

    fun seed(kind: vector<u8>, owner: address): vector<u8> {
        vector::append(&mut kind, bcs::to_bytes(&owner));
        kind
    }

    fun open(kind: vector<u8>, owner: address): signer acquires Root {
        let root = borrow_global<Root>(@cactus_mesh);
        let root_signer = object::generate_signer_for_extending(&root.extend_ref);
        let vault = object::create_named_object(&root_signer, seed(kind, owner));
        keep(&vault);
        fungible_asset::create_store(&vault, root.asset);
        object::generate_signer(&vault)
    }

    /// Whether `account` has `amount` in its primary store.
    public(package) fun has_coins(account: address, amount: u64): bool acquires Root {
        primary_fungible_store::balance(account, borrow_global<Root>(@cactus_mesh).asset) >= amount
    }

    /// Coins of `payer` go into a vault.
    public(package) fun lock(payer: &signer, vault: address, amount: u64) acquires Root {
        let asset = borrow_global<Root>(@cactus_mesh).asset;
        fungible_asset::deposit(store_of(vault), primary_fungible_store::withdraw(payer, asset, amount));
    }

    /// Coins of a vault go to `payee`.
    public(package) fun release(vault: address, payee: address, amount: u64) acquires Root {
        if (amount == 0) return;
        let root_signer = object::generate_signer_for_extending(&borrow_global<Root>(@cactus_mesh).extend_ref);
        primary_fungible_store::deposit(payee, fungible_asset::withdraw(&root_signer, store_of(vault), amount));
    }

    /// Coins of one vault go into another.
    public(package) fun shift(source: address, target: address, amount: u64) acquires Root {
        let root_signer = object::generate_signer_for_extending(&borrow_global<Root>(@cactus_mesh).extend_ref);
        fungible_asset::deposit(store_of(target), fungible_asset::withdraw(&root_signer, store_of(source), amount));
    }

    fun store_of(vault: address): Object<FungibleStore> {
        object::address_to_object<FungibleStore>(vault)
    }

    #[test_only]
    public fun balance_for_test(vault: address): u64 {
        fungible_asset::balance(store_of(vault))
    }

    #[test_only]
    public fun root_address_for_test(): address acquires Root {
        borrow_global<Root>(@cactus_mesh).address
    }
}
