/// Objects and fungible assets with the rules of the real ones, for one asset that no hook is attached to.
module aptos_framework::object {
    use std::bcs;
    use std::hash;
    use std::signer;
    use std::vector;
    use aptos_std::from_bcs;
    use aptos_framework::account;

    friend aptos_framework::aptos_coin;
    friend aptos_framework::primary_fungible_store;

    const EOBJECT_EXISTS: u64 = 0x80001;
    const EOBJECT_DOES_NOT_EXIST: u64 = 0x60002;
    const ENO_UNGATED_TRANSFERS: u64 = 0x50003;
    const ENOT_OBJECT_OWNER: u64 = 0x50004;
    const EMAXIMUM_NESTING: u64 = 0x20006;
    const ERESOURCE_DOES_NOT_EXIST: u64 = 0x60007;
    const MAXIMUM_OBJECT_NESTING: u8 = 8;
    const OBJECT_DERIVED_SCHEME: u8 = 0xFC;
    const OBJECT_FROM_SEED_ADDRESS_SCHEME: u8 = 0xFE;

    struct ObjectCore has key { owner: address, allow_ungated_transfer: bool }

    struct Object<phantom T> has copy, drop, store { inner: address }

    struct ConstructorRef has drop { self: address }

    struct ExtendRef has drop, store { self: address }

    struct TransferRef has drop, store { self: address }

    native fun exists_at<T: key>(object: address): bool;

    public fun address_to_object<T: key>(object: address): Object<T> {
        assert!(exists<ObjectCore>(object), EOBJECT_DOES_NOT_EXIST);
        assert!(exists_at<T>(object), ERESOURCE_DOES_NOT_EXIST);
        Object<T> { inner: object }
    }

    public fun create_object_address(source: &address, seed: vector<u8>): address {
        derive(source, seed, OBJECT_FROM_SEED_ADDRESS_SCHEME)
    }

    public(friend) fun create_user_derived_object_address(source: address, derive_from: address): address {
        derive(&source, bcs::to_bytes(&derive_from), OBJECT_DERIVED_SCHEME)
    }

    fun derive(source: &address, seed: vector<u8>, scheme: u8): address {
        let bytes = bcs::to_bytes(source);
        vector::append(&mut bytes, seed);
        vector::push_back(&mut bytes, scheme);
        from_bcs::to_address(hash::sha3_256(bytes))
    }

    public fun create_named_object(creator: &signer, seed: vector<u8>): ConstructorRef {
        let owner = signer::address_of(creator);
        create_at(owner, create_object_address(&owner, seed))
    }

    public(friend) fun create_at(owner: address, object: address): ConstructorRef {
        assert!(!exists<ObjectCore>(object), EOBJECT_EXISTS);
        move_to(&account::create_signer(object), ObjectCore { owner, allow_ungated_transfer: true });
        ConstructorRef { self: object }
    }

    public fun is_object(object: address): bool {
        exists<ObjectCore>(object)
    }

    public fun object_address<T: key>(object: &Object<T>): address {
        object.inner
    }

    public fun address_from_constructor_ref(ref: &ConstructorRef): address {
        ref.self
    }

    public fun object_from_constructor_ref<T: key>(ref: &ConstructorRef): Object<T> {
        address_to_object<T>(ref.self)
    }

    public fun generate_extend_ref(ref: &ConstructorRef): ExtendRef {
        ExtendRef { self: ref.self }
    }

    public fun generate_transfer_ref(ref: &ConstructorRef): TransferRef {
        TransferRef { self: ref.self }
    }

    public fun generate_signer(ref: &ConstructorRef): signer {
        account::create_signer(ref.self)
    }

    public fun generate_signer_for_extending(ref: &ExtendRef): signer {
        account::create_signer(ref.self)
    }

    public fun disable_ungated_transfer(ref: &TransferRef) acquires ObjectCore {
        borrow_global_mut<ObjectCore>(ref.self).allow_ungated_transfer = false;
    }

    public fun transfer_raw(owner: &signer, object: address, to: address) acquires ObjectCore {
        verify_ungated_and_descendant(signer::address_of(owner), object);
        borrow_global_mut<ObjectCore>(object).owner = to;
    }

    public entry fun transfer<T: key>(owner: &signer, object: Object<T>, to: address) acquires ObjectCore {
        transfer_raw(owner, object.inner, to);
    }

    fun verify_ungated_and_descendant(owner: address, destination: address) acquires ObjectCore {
        assert!(exists<ObjectCore>(destination), EOBJECT_DOES_NOT_EXIST);
        let object = borrow_global<ObjectCore>(destination);
        assert!(object.allow_ungated_transfer, ENO_UNGATED_TRANSFERS);
        let (current, count) = (object.owner, 0);
        while (owner != current) {
            count = count + 1;
            assert!(count < MAXIMUM_OBJECT_NESTING, EMAXIMUM_NESTING);
            assert!(exists<ObjectCore>(current), ENOT_OBJECT_OWNER);
            let object = borrow_global<ObjectCore>(current);
            assert!(object.allow_ungated_transfer, ENO_UNGATED_TRANSFERS);
            current = object.owner;
        };
    }

    public fun owner<T: key>(object: Object<T>): address acquires ObjectCore {
        assert!(exists<ObjectCore>(object.inner), EOBJECT_DOES_NOT_EXIST);
        borrow_global<ObjectCore>(object.inner).owner
    }

    /// Also through objects in between.
    public fun owns<T: key>(object: Object<T>, owner: address): bool acquires ObjectCore {
        assert!(exists<ObjectCore>(object.inner), EOBJECT_DOES_NOT_EXIST);
        if (object.inner == owner) return true;
        let (current, count) = (borrow_global<ObjectCore>(object.inner).owner, 0);
        while (owner != current) {
            count = count + 1;
            assert!(count < MAXIMUM_OBJECT_NESTING, EMAXIMUM_NESTING);
            if (!exists<ObjectCore>(current)) return false;
            current = borrow_global<ObjectCore>(current).owner;
        };
        true
    }
}

module aptos_framework::fungible_asset {
    use std::signer;
    use aptos_framework::object::{Self, ConstructorRef, Object};

    friend aptos_framework::aptos_coin;
    friend aptos_framework::primary_fungible_store;

    const EINSUFFICIENT_BALANCE: u64 = 0x10004;
    const ENOT_STORE_OWNER: u64 = 0x50008;
    const EFUNGIBLE_ASSET_AND_STORE_MISMATCH: u64 = 0x1000b;
    const EFUNGIBLE_STORE_EXISTENCE: u64 = 0x60017;

    struct Metadata has key, copy, drop { decimals: u8 }

    struct FungibleStore has key { metadata: Object<Metadata>, balance: u64 }

    struct FungibleAsset { metadata: Object<Metadata>, amount: u64 }

    public(friend) fun add_fungibility(ref: &ConstructorRef, decimals: u8) {
        move_to(&object::generate_signer(ref), Metadata { decimals });
    }

    public(friend) fun create(metadata: Object<Metadata>, amount: u64): FungibleAsset {
        FungibleAsset { metadata, amount }
    }

    public fun create_store<T: key>(constructor_ref: &ConstructorRef, metadata: Object<T>): Object<FungibleStore> {
        let metadata = object::address_to_object<Metadata>(object::object_address(&metadata));
        move_to(&object::generate_signer(constructor_ref), FungibleStore { metadata, balance: 0 });
        object::object_from_constructor_ref<FungibleStore>(constructor_ref)
    }

    public fun store_exists(store: address): bool {
        exists<FungibleStore>(store)
    }

    public fun balance<T: key>(store: Object<T>): u64 acquires FungibleStore {
        let address = object::object_address(&store);
        if (exists<FungibleStore>(address)) borrow_global<FungibleStore>(address).balance else 0
    }

    public fun metadata_from_asset(fa: &FungibleAsset): Object<Metadata> {
        fa.metadata
    }

    public fun amount(fa: &FungibleAsset): u64 {
        fa.amount
    }

    public fun withdraw<T: key>(owner: &signer, store: Object<T>, amount: u64): FungibleAsset acquires FungibleStore {
        assert!(object::owns(store, signer::address_of(owner)), ENOT_STORE_OWNER);
        let address = object::object_address(&store);
        assert!(exists<FungibleStore>(address), EFUNGIBLE_STORE_EXISTENCE);
        let record = borrow_global_mut<FungibleStore>(address);
        assert!(record.balance >= amount, EINSUFFICIENT_BALANCE);
        record.balance = record.balance - amount;
        FungibleAsset { metadata: record.metadata, amount }
    }

    public fun deposit<T: key>(store: Object<T>, fa: FungibleAsset) acquires FungibleStore {
        let FungibleAsset { metadata, amount } = fa;
        let address = object::object_address(&store);
        assert!(exists<FungibleStore>(address), EFUNGIBLE_STORE_EXISTENCE);
        let record = borrow_global_mut<FungibleStore>(address);
        assert!(record.metadata == metadata, EFUNGIBLE_ASSET_AND_STORE_MISMATCH);
        record.balance = record.balance + amount;
    }
}

module aptos_framework::primary_fungible_store {
    use std::signer;
    use aptos_framework::fungible_asset::{Self, FungibleAsset, FungibleStore};
    use aptos_framework::object::{Self, Object};

    public fun primary_store_address<T: key>(owner: address, metadata: Object<T>): address {
        object::create_user_derived_object_address(owner, object::object_address(&metadata))
    }

    public fun ensure_primary_store_exists<T: key>(owner: address, metadata: Object<T>): Object<FungibleStore> {
        let address = primary_store_address(owner, metadata);
        if (!fungible_asset::store_exists(address)) {
            fungible_asset::create_store(&object::create_at(owner, address), metadata);
        };
        object::address_to_object<FungibleStore>(address)
    }

    #[view]
    public fun balance<T: key>(account: address, metadata: Object<T>): u64 {
        let address = primary_store_address(account, metadata);
        if (!fungible_asset::store_exists(address)) return 0;
        fungible_asset::balance(object::address_to_object<FungibleStore>(address))
    }

    public fun withdraw<T: key>(owner: &signer, metadata: Object<T>, amount: u64): FungibleAsset {
        let store = ensure_primary_store_exists(signer::address_of(owner), metadata);
        fungible_asset::withdraw(owner, store, amount)
    }

    public fun deposit(owner: address, fa: FungibleAsset) {
        let store = ensure_primary_store_exists(owner, fungible_asset::metadata_from_asset(&fa));
        fungible_asset::deposit(store, fa);
    }
}

module aptos_framework::aptos_coin {
    use aptos_framework::fungible_asset::{Self, FungibleAsset, Metadata};
    use aptos_framework::object;

    friend aptos_framework::genesis;

    /// Where every Aptos chain keeps APT's metadata.
    const APT: address = @0xa;

    public(friend) fun initialize() {
        fungible_asset::add_fungibility(&object::create_at(@aptos_framework, APT), 8);
    }

    public(friend) fun mint(amount: u64): FungibleAsset {
        fungible_asset::create(object::address_to_object<Metadata>(APT), amount)
    }

    #[test_only]
    public fun ensure_initialized_with_apt_fa_metadata_for_test() {
        if (!object::is_object(APT)) initialize();
    }

    #[test_only]
    public fun mint_apt_fa_for_test(amount: u64): FungibleAsset {
        ensure_initialized_with_apt_fa_metadata_for_test();
        mint(amount)
    }
}
